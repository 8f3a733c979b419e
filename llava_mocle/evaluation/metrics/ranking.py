"""Metrics of ranked candidates. Higher scores are better; a score that is nan ranks nothing above anything."""

from collections.abc import Sequence


def reciprocal_rank(scores: Sequence[float], gold: int) -> float:
    """1 / rank of candidate `gold` among `scores`, ranks from 1.

    VisDial's MRR is its mean (github.com/batra-mlp-lab/visdial-challenge-starter-pytorch, visdialch/metrics.py; there
    ties fall as sorting leaves them). Here ties are the worst case: whatever is not below the gold candidate stands
    before it, so a model that scores all alike gains nothing. A gold score of nan ranks last.

    Raises:
        ValueError: `gold` is no index of `scores`.
    """
    if not 0 <= gold < len(scores):
        raise ValueError(f"gold is {gold}, expected 0..{len(scores) - 1}: an index of the {len(scores)} scores")
    # "not below" rather than ">=": comparisons with nan are all false.
    before = sum(not score < scores[gold] for index, score in enumerate(scores) if index != gold)
    return 1 / (1 + before)
