"""Bootstrap intervals: how far a score could be off because the benchmark has these questions and no others."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000
SEED = 0  # fixed, so that the same scores always get the same interval
# 2.5 and 97.5 but for rounding. Written like this, an interval equals those of earlier results to the last bit.
_BOUNDS = (100 * (1 - 0.95) / 2, 100 - 100 * (1 - 0.95) / 2)


def bootstrap_interval(
    items: ArrayLike,
    statistic: Callable[[np.ndarray], float] | None = None,
    *,
    strata: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a statistic of `items`, which are resampled with replacement.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    Args:
        items: (N, ...), one row an item. What belongs together, such as the questions on one image, is one row.
        statistic: a resample (N, ...) of the rows -> its value. A resample whose value is nan, such as the AUC of one
            class, is left out. By default the mean of `items` (N,); with `strata`, the sum of the strata's means.
        strata: one label an item. Each stratum is resampled on its own, and keeps its number of items.

    Returns:
        Lower and upper bound; (nan, nan) where there are no items, or no resample has a value.
    """
    rows = np.asarray(items)
    groups = [np.arange(len(rows))] if strata is None else _groups(strata)
    if not len(rows):
        return float("nan"), float("nan")
    rng = np.random.default_rng(SEED)
    if statistic is None:
        drawn = np.sum([_resampled_means(rows[group].astype(np.float64), rng) for group in groups], axis=0)
    else:
        drawn = np.array([statistic(rows[_resample(groups, rng)]) for _ in range(RESAMPLES)], dtype=np.float64)
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return float("nan"), float("nan")
    low, high = np.percentile(drawn, _BOUNDS)
    return float(low), float(high)


def paired_difference_interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """The `bootstrap_interval` of mean(after - before), both scored on the same items in the same order.

    Raises:
        ValueError: the two have different lengths.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired scores need the same items: {first.shape[0]} before, {second.shape[0]} after")
    return bootstrap_interval(second - first)


def _groups(strata: Sequence[Hashable]) -> list[np.ndarray]:
    """The items' indices in each stratum, in the order in which the strata first appear."""
    groups: dict[Hashable, list[int]] = {}
    for index, label in enumerate(strata):
        groups.setdefault(label, []).append(index)
    return [np.array(group) for group in groups.values()]


def _resample(groups: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([group[rng.integers(len(group), size=len(group))] for group in groups])


def _resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The means (RESAMPLES,) of as many resamples of `values`, without drawing item by item.

    Only how often each distinct value was drawn matters, which is multinomial: for 0/1 scores it costs the same
    whatever N is.
    """
    distinct, counts = np.unique(values, return_counts=True)
    draws = rng.multinomial(values.size, counts / values.size, size=RESAMPLES)
    return draws @ distinct / values.size
