"""Reading which option an answer means. Options are numbered from 0; their letters run from A."""

import re
from collections.abc import Hashable, Mapping, Sequence
from string import ascii_uppercase
from typing import TypeVar

from llava_mocle.evaluation.metrics.vqa import normalize_vqa

Question = TypeVar("Question", bound=Hashable)

SCIENCEQA_LETTERS = ("A", "B", "C", "D", "E")
# The last dot stands for any character, as in LLaVA: a text that ends with the letter does not match.
_THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")
# What ends a word in `letter_or_text`, besides white space.
_WORD_EDGES = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ARTICLE = re.compile(r"(?:^|[.!?]\s+)A\s+(?!is\b)[^\W\d_]")  # "A dog", "It barks. A dog"; not "I say A here"
_ONLY_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")  # "B", "b.", "(B)"
_LEADING_LETTER = re.compile(r"(?:\(([A-Z])\)|([A-Z])[.):])\s")  # "B. text", "B) text", "(B) text", "B: text"
_STATED_LETTER = re.compile(  # "the answer is B", "Answer: (B)", "option B"
    r"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?:\s+is)?\s*:?\s*(?:option\s+)?(?:\(([A-Z])\)|([A-Z])(?![\w'’]))"
)


def scienceqa_letter(text: str, n_options: int) -> int | None:
    """LLaVA's reading of a ScienceQA answer: a bare letter; "X. ..."; "The answer is X.", once. None where it is none.

    Source: LLaVA's llava/eval/eval_science_qa.py. Letters run from A to E, the case counts, and a letter beyond the
    question's options is none. The text is taken as it is: white space around a bare letter counts.
    """
    n_options = min(n_options, len(SCIENCEQA_LETTERS))
    if text in SCIENCEQA_LETTERS:
        return _within(text, n_options)
    if text[:1] in SCIENCEQA_LETTERS and text[1:3] == ". ":
        return _within(text[0], n_options)
    stated = _THE_ANSWER_IS.findall(text)
    return _within(stated[0], n_options) if len(stated) == 1 else None


def bare_letter(text: str, n_options: int) -> int | None:
    """The option whose capital letter is the whole answer, as LLaVA scores SEED-Bench.

    Source: LLaVA's scripts/convert_seed_for_submission.py, where the answer must be the letter itself. White space
    around it is forgiven here.
    """
    text = text.strip()
    return _within(text, n_options) if len(text) == 1 else None


def parse_option_letter(text: str, options: Sequence[str]) -> int | None:
    """The option whose letter the answer gives, alone, in front, or in a statement. None where it gives none, or two.

    A reading of our own, for benchmarks without an official parser. In order: the whole answer is a letter of either
    case ("B", "(b)", "b."); a capital letter with a mark stands in front ("B. Paris", "(B) Paris"); capital letters
    follow "answer", "option" or "choice" ("the answer is B", "Answer: (B)"), and all are the same.
    """
    text = text.strip()
    only = _ONLY_LETTER.fullmatch(text)
    if only:
        return _within(only.group(1).upper(), len(options))
    leading = _LEADING_LETTER.match(text)
    if leading:
        return _within(leading.group(1) or leading.group(2), len(options))
    stated = {first or second for first, second in _STATED_LETTER.findall(text)}
    return _within(stated.pop(), len(options)) if len(stated) == 1 else None


def option_text(text: str, options: Sequence[str]) -> int | None:
    """The one option that is the answer, word for word, under VQA's normaliser; None where none or several are."""
    said = normalize_vqa(text)
    matching = [index for index, option in enumerate(options) if said and normalize_vqa(option) == said]
    return matching[0] if len(matching) == 1 else None


def letter_or_text(text: str, options: Sequence[str]) -> int | None:
    """An option's letter among the words, else an option's text in the answer.

    A reading of our own, for benchmarks without an official parser; it is more careful than MMBench's (`mmbench.py`). A
    letter counts where it is the only option letter among the words; but an "A" that begins a sentence of more than
    three words is taken for an article, unless "is" follows. A text counts where it is the only option's that the
    answer contains, case aside; answers more than twice as long as all options together contain none. Options without
    text are no candidates.
    """
    words = text.translate(_WORD_EDGES).split()
    named = [index for index in range(len(options)) if ascii_uppercase[index] in words]
    articles = len(_ARTICLE.findall(text.strip())) if len(words) > 3 else 0
    if len(named) == 1 and not (named == [0] and words.count("A") == articles):
        return named[0]
    if len(text) > 2 * sum(map(len, options)):
        return None
    lowered = text.lower()
    contained = [index for index, option in enumerate(options) if option and option.lower() in lowered]
    return contained[0] if len(contained) == 1 else None


def circular_correct(groups: Mapping[Question, Sequence[bool]]) -> dict[Question, float]:
    """CircularEval: a question is right (1.0) where it is right under every rotation of its options, else 0.0.

    Source: MMBench (arXiv 2307.06281), section 4.

    Args:
        groups: question -> whether each of its rotations was answered right.

    Raises:
        ValueError: a question without rotations.
    """
    for question, correct in groups.items():
        if not len(correct):
            raise ValueError(f"question {question!r} has no answers, expected one a rotation of its options")
    return {question: float(all(correct)) for question, correct in groups.items()}


def _within(letter: str, n_options: int) -> int | None:
    index = ascii_uppercase.find(letter)
    return index if 0 <= index < n_options else None
