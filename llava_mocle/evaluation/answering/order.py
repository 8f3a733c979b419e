"""The order in which questions are answered: batches of one cluster and of like lengths."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llava_mocle.evaluation.answering.question import Question, request_of

if TYPE_CHECKING:
    from llava_mocle.inference import Predictor


def batches(predictor: "Predictor", questions: Sequence[Question], size: int) -> list[list[int]]:
    """Divide the questions into batches, by their indices; every batch but the last is full.

    A batch pays for its longest prompt and its longest answer. Questions of one cluster ask alike, so their answers are
    of like lengths, and a batch of one cluster needs no mixing of experts. So first come the batches of one cluster,
    cluster by cluster, then those of what is left over from all. The longest prompts come first, so that what remains
    takes no longer than a progress bar says, and a memory that is too small shows at once. In a batch, the questions
    keep their order.

    Raises:
        RoutingError: a question that the model cannot route.
    """
    if len(questions) <= size:
        return [list(range(len(questions)))] if questions else []
    routes = predictor.routes([request_of(question) for question in questions])
    longest_first = sorted(range(len(questions)), key=lambda index: _length(questions[index]), reverse=True)
    by_route: dict[int | None, list[int]] = {}
    for index in longest_first:
        by_route.setdefault(routes[index], []).append(index)
    found, left = [], set[int]()
    for route in sorted(by_route, key=lambda route: -1 if route is None else route):
        own = by_route[route]
        full = len(own) - len(own) % size
        found += _cut(own[:full], size)
        left.update(own[full:])
    found += _cut([index for index in longest_first if index in left], size)
    return [sorted(batch) for batch in found]


def _cut(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[begin : begin + size]) for begin in range(0, len(indices), size)]


def _length(question: Question) -> tuple[int, int]:
    """Images, which take most of the tokens, then bytes. Tokenizing would take a millisecond a question."""
    return len(question.images), len(question.prompt.encode())
