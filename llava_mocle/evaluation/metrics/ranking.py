"""Metrics of ranked candidates. Higher scores are better; a score that is nan ranks nothing above anything."""

import math
from collections.abc import Iterable, Sequence


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


def mean_reciprocal_rank(ranked: Iterable[tuple[Sequence[float], int]]) -> float:
    """The mean of `reciprocal_rank` over (scores, gold) pairs; nan over none."""
    ranks = [reciprocal_rank(scores, gold) for scores, gold in ranked]
    return math.fsum(ranks) / len(ranks) if ranks else math.nan


def ranked_first(scores: Sequence[float], gold: int) -> float:
    """1.0 where `gold` alone has the highest score, else 0.0: accuracy of ranked answers (VSR, IconQA, A-OKVQA ...).

    Source: InstructBLIP's vocabulary ranking (arXiv 2305.06500, section 2.5); a tie at the top counts as wrong.

    Raises:
        ValueError: `gold` is no index of `scores`.
    """
    return float(reciprocal_rank(scores, gold) == 1.0)


def best_index(scores: Sequence[float]) -> int | None:
    """The index of the highest score, the first of equals; None where there is none (empty, or all nan)."""
    known = [index for index, score in enumerate(scores) if not math.isnan(score)]
    return max(known, key=lambda index: scores[index], default=None)
