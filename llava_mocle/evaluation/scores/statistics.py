"""Bootstrap intervals of mean scores."""

from collections.abc import Sequence

import numpy as np


def bootstrap_interval(
    scores: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `scores` (N,), items resampled with replacement.

    The seed is fixed, so the same answers always get the same interval. Empty `scores` give (nan, nan).
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        return float("nan"), float("nan")
    means = _resampled_means(values, resamples, seed)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def paired_difference_interval(
    before: Sequence[float],
    after: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of mean(after - before), both scored on the same items in the same order.

    Raises:
        ValueError: the two have different lengths.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired scores need the same items: {first.shape[0]} before, {second.shape[0]} after")
    return bootstrap_interval((second - first).tolist(), confidence=confidence, resamples=resamples, seed=seed)


def _resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    # A resample only matters through how often each distinct value was drawn: a multinomial over the distinct
    # values, which for 0/1 scores costs the same whatever N is.
    distinct, counts = np.unique(values, return_counts=True)
    draws = rng.multinomial(values.size, counts / values.size, size=resamples)
    return draws @ distinct / values.size
