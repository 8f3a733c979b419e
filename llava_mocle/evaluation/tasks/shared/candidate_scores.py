"""Reading the log-likelihoods that a ranked question's answer carries."""

from collections.abc import Mapping, Sequence
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.task import Item


def candidate_scores(item: Item, answer: Mapping[str, Any]) -> list[float]:
    """The log-likelihood of each of the question's candidates, in their order.

    Raises:
        DataError: the answer has no scores, or not one for each candidate.
    """
    scores = (answer.get("metadata") or {}).get("scores")
    wanted = len(item.question.candidates)
    if isinstance(scores, str) or not isinstance(scores, Sequence) or len(scores) != wanted:
        found = "none" if scores is None else f"{scores!r:.60}"
        raise DataError(
            f"{item.question.source}: the answer to question {item.question.question_id!r} should hold {wanted} "
            f"scores under metadata.scores, one a candidate; found {found}. Answer again with --overwrite."
        )
    return [float(score) for score in scores]
