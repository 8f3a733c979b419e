"""MME's scores.

Source: eval_tool/calculation.py of MME (Fu et al., arXiv 2306.13394), and the lists of subtasks there.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence

from llava_mocle.errors import DataError
from llava_mocle.evaluation.scores.statistics import bootstrap_interval

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")

Record = tuple[str, Hashable, bool]  # subtask, image, whether the answer was right


def mme_score(records: Iterable[Record]) -> float:
    """The sum over the subtasks there are of acc + acc+: at most 2000 for perception and 800 for cognition.

    acc is the share of right questions, acc+ that of images with both questions right, both in percent.

    Args:
        records: one of every question. The questions of an image are paired in their order.

    Raises:
        DataError: an unknown subtask, or an image with an odd number of questions.
    """
    scores = {name: _score(pairs) for name, pairs in _pairs_by_subtask(records).items()}
    perception, cognition = (sum(scores[name] for name in group if name in scores) for group in (PERCEPTION, COGNITION))
    return perception + cognition


def mme_interval(records: Iterable[Record]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the sum over subtasks of acc + acc+; images are resampled within each subtask.

    Every resample has all subtasks, since a missing one would take its score out of the sum. Without records
    (nan, nan).

    Raises:
        DataError: see `mme_score`.
    """
    # The mean of these values over a subtask's images is acc + acc+.
    values = [
        (subtask, 50.0 * (first + second) + 100.0 * (first and second))
        for subtask, pairs in _pairs_by_subtask(records).items()
        for first, second in pairs
    ]
    return bootstrap_interval([value for _, value in values], strata=[subtask for subtask, _ in values])


def _pairs_by_subtask(records: Iterable[Record]) -> dict[str, list[tuple[bool, bool]]]:
    """Subtask, in the official order -> whether the two questions of each image were answered right."""
    answers: dict[str, dict[Hashable, list[bool]]] = {}
    for subtask, image, correct in records:
        answers.setdefault(subtask, {}).setdefault(image, []).append(bool(correct))
    unknown = set(answers) - {*PERCEPTION, *COGNITION}
    if unknown:
        raise DataError(f"MME has no subtask {min(unknown)!r}; expected one of {', '.join(PERCEPTION + COGNITION)}.")
    return {name: _pairs(name, answers[name]) for name in PERCEPTION + COGNITION if name in answers}


def _pairs(subtask: str, images: Mapping[Hashable, list[bool]]) -> list[tuple[bool, bool]]:
    pairs: list[tuple[bool, bool]] = []
    for image, correct in images.items():
        if len(correct) % 2:
            raise DataError(
                f"MME subtask {subtask}, image {image}: found {len(correct)} question(s), expected two an image; "
                "answer the whole subtask."
            )
        pairs.extend(zip(correct[::2], correct[1::2], strict=True))
    return pairs


def _score(pairs: Sequence[tuple[bool, bool]]) -> float:
    acc = 100 * sum(first + second for first, second in pairs) / (2 * len(pairs))
    acc_plus = 100 * sum(first and second for first, second in pairs) / len(pairs)
    return acc + acc_plus
