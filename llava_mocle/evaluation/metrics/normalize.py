"""A plain answer normaliser for exact match: lower case, no punctuation, no articles, single spaces.

It is deliberately simple and ours. The benchmarks' official normalisers (VQA's contractions and number words, and so
on) belong to the benchmarks.
"""

import re
import unicodedata

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# Marks that belong to a number: 3.5, 1,000 and -3 are not 35, 1 000 and 3.
_DIGIT_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_INNER_POINT = re.compile(r"(?<=\d)\.(?=\d)")
_MINUS = re.compile(r"(?<![\w)])[-\u2212](?=\d)")
_APOSTROPHES = str.maketrans("", "", "'\u2019")
_KEPT_POINT, _KEPT_MINUS = "\x00", "\x01"


def normalize_answer(text: str) -> str:
    """The form in which two answers are compared.

    >>> normalize_answer("The Circle.")
    'circle'
    >>> normalize_answer("x-ray,  3.5 cm!")
    'x ray 3.5 cm'
    """
    text = unicodedata.normalize("NFKC", text).lower().translate(_APOSTROPHES)
    text = _INNER_POINT.sub(_KEPT_POINT, _DIGIT_COMMA.sub("", text))
    text = _MINUS.sub(_KEPT_MINUS, text)
    text = "".join(" " if _is_punctuation(char) else char for char in text)
    text = " ".join(text.replace(_KEPT_POINT, ".").replace(_KEPT_MINUS, "-").split())
    # "A" alone is an option letter, not an article.
    return " ".join(_ARTICLES.sub(" ", text).split()) or text


def exact_match(answer: str, reference: str) -> float:
    """1.0 where both normalise to the same non-empty text, else 0.0."""
    normalized = normalize_answer(answer)
    return float(bool(normalized) and normalized == normalize_answer(reference))


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char).startswith("P") and char != "%"
