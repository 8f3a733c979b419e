"""VQA's answer normaliser and the accuracies built on it.

Source: visualqa.org/evaluation and github.com/GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py, branch
master. Where the page and the code differ, the code is followed, since published numbers come from it.
"""

import re
from collections.abc import Callable, Sequence

UNPARSED_AS = "an empty text"  # `Task.unparsed_as` of the tasks whose scorers compare silence too, see `accuracies`
_NUMBER_WORDS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
_NUMBER_WORDS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_ARTICLES = frozenset(("a", "an", "the"))
# The colon and the apostrophe are not among them: 2:50 and girl's keep theirs. Nor are %, $, &, # and the like.
_PUNCTUATION = ';/[]"{}()=+\\_->@<`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# The official code hands re.UNICODE, which is 32, to `sub` as the number of replacements.
_PERIODS_REMOVED = 32

# Forms that are found without their one apostrophe, and forms that are found with one of several missing.
_ONE_APOSTROPHE = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't
    it'd it'll ma'am might've mightn't must've mustn't needn't not've o'clock oughtn't shan't should've shouldn't
    somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's
    they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's
    where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
_SEVERAL_APOSTROPHES = """
    couldn't've hadn't've he'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've someone'd've
    something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've
"""


def _one_missing(form: str) -> list[str]:
    return [form[:place] + form[place + 1 :] for place, char in enumerate(form) if char == "'"]


_CONTRACTIONS = {
    **{missing: form for form in (_ONE_APOSTROPHE + _SEVERAL_APOSTROPHES).split() for missing in _one_missing(form)},
    "somebody'd": "somebodyd",  # as in the official table
}


def normalize_vqa(text: str) -> str:
    """The form in which VQA compares answers.

    In this order: line breaks and tabs become spaces; punctuation goes (see `strip_punctuation`); lower case; number
    words from none to ten become digits; a, an and the go; contractions get their apostrophe back.

    >>> normalize_vqa("The two dogs don't bark.")
    "2 dogs don't bark"
    >>> normalize_vqa("1,000 x-rays at 2:50")
    '1000 xrays at 2:50'
    """
    return digits_and_articles(strip_punctuation(_on_one_line(text)))


def strip_punctuation(text: str) -> str:
    """VQA's punctuation rule.

    A mark becomes a space. It is dropped instead, at all its places, when one of them has a space before or behind it,
    or when there is a comma between two digits anywhere in the text. Periods go unless a digit follows.
    """
    number_comma = _DIGIT_COMMA.search(text) is not None
    stripped = text
    for mark in _PUNCTUATION:
        dropped = number_comma or f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if dropped else " ")
    return _PERIOD.sub("", stripped, count=_PERIODS_REMOVED)


def digits_and_articles(text: str) -> str:
    """VQA's word rule: lower case, number words to digits, no articles, contractions restored, single spaces."""
    words = (_NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, annotations: Sequence[str]) -> float:
    """The official accuracy of VQAv2 and OK-VQA: `soft_accuracy`, as vqaEval.py compares texts.

    Line breaks and tabs become spaces, and white space around a text goes. Where the annotators then wrote two
    different texts or more, both sides are compared under `normalize_vqa`. Where all wrote the same text, nothing is
    normalised: to ten "yes", "Yes" and "yes." are wrong.

    Raises:
        ValueError: no annotations.
    """
    _count(annotations)
    given = [_on_one_line(annotation) for annotation in annotations]
    return soft_accuracy(_on_one_line(answer), given, normalize_vqa if len(set(given)) > 1 else str)


def vizwiz_api_accuracy(answer: str, annotations: Sequence[str]) -> float:
    """The accuracy of VizWiz' own API: `soft_accuracy`, the answer under `normalize_vqa`, the annotations as written.

    Source: `VQAEval.evaluate` of the VizWiz VQA API (Qing Li), vqaEval.py. An annotation with a capital, an article or
    a mark is never met.

    Raises:
        ValueError: no annotations.
    """
    return soft_accuracy(normalize_vqa(answer), annotations, str)


def soft_accuracy(answer: str, annotations: Sequence[str], normalize: Callable[[str], str] = normalize_vqa) -> float:
    """The mean, over leaving out one annotator at a time, of min(agreeing of the others / 3, 1).

    The rule of VQAv2, OK-VQA, TextVQA and VizWiz ("unanswerable" is an answer like any other), which differ in how they
    compare two texts.

    Args:
        normalize: gives the form in which both sides are compared.

    Raises:
        ValueError: no annotations.
    """
    total = _count(annotations)
    agreeing = _agreeing(answer, annotations, normalize)
    left_out_agrees = min((agreeing - 1) / 3, 1.0) if agreeing else 0.0
    left_out_differs = min(agreeing / 3, 1.0)
    return (agreeing * left_out_agrees + (total - agreeing) * left_out_differs) / total


def min_over_three(answer: str, annotations: Sequence[str], normalize: Callable[[str], str] = normalize_vqa) -> float:
    """min(agreeing annotators / 3, 1), nobody left out.

    A-OKVQA's direct answers (github.com/allenai/aokvqa, evaluation/eval_predictions.py), where the code compares raw
    texts, as `normalize=str` does. Also VQA's formula as it is often shortened: with ten annotators it is higher than
    `soft_accuracy` by 0.1 at three agreeing, by 0.067 at two and by 0.033 at one.

    Raises:
        ValueError: no annotations.
    """
    _count(annotations)
    return min(_agreeing(answer, annotations, normalize) / 3, 1.0)


def half_accuracy(answer: str, annotations: Sequence[str], normalize: Callable[[str], str] = normalize_vqa) -> float:
    """min(agreeing annotators / 2, 1): iVQA with its five annotators (github.com/antoyang/just-ask, train_videoqa.py).

    The code there compares entries of an answer vocabulary; generated text needs a normaliser: VQA's by default.

    Raises:
        ValueError: no annotations.
    """
    _count(annotations)
    return min(_agreeing(answer, annotations, normalize) / 2, 1.0)


def accuracies(
    accuracy: Callable[[str, Sequence[str]], float],
    annotations: Sequence[Sequence[str]],
    answers: Sequence[str | None],
) -> list[float]:
    """The accuracy of each answer. An answer that is None is an empty text, which the official scorers compare too.

    So it is right where an annotator wrote something of which the normaliser leaves nothing, such as the letter "a".
    """
    return [accuracy(answer or "", given) for answer, given in zip(answers, annotations, strict=True)]


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _agreeing(answer: str, annotations: Sequence[str], normalize: Callable[[str], str]) -> int:
    wanted = normalize(answer)
    return sum(normalize(annotation) == wanted for annotation in annotations)


def _count(annotations: Sequence[str]) -> int:
    if isinstance(annotations, str) or not annotations:
        raise ValueError(f"found {annotations!r}, expected the annotators' answers, one text each")
    return len(annotations)
