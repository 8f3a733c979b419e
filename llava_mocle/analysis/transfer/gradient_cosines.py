"""Whether datasets pull shared parameters in one direction: cosines of their gradients, beside what noise allows.

With the gradients g_b of n batches of each dataset, and averages over all ways to halve a dataset's batches:

    between(d, e) = mean <h_d, h_e> / sqrt(mean |h_d|^2 * mean |h_e|^2)     h: the mean gradient of a half
    within(d)     = mean <h_d, h'_d> / mean |h_d|^2                         h, h': the two halves of one dataset
    allowed(d, e) = between(d, e) / sqrt(within(d) * within(e))

All compare means of n / 2 batches, so `within` is the noise ceiling of `between`: the cosine of a dataset with itself.
`allowed` takes the noise out (Spearman's correction for attenuation, 1904): 1 for one direction, 0 for directions that
have nothing in common, below 0 for datasets that undo each other's steps. The averages need no drawing: they follow
from the inner products of the batches' gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
_BOUNDS = (2.5, 97.5)
# A replicate whose noise leaves nothing of a gradient has no `allowed`; of more than these, there is no interval.
_MOST_WITHOUT = 0.025
FEWEST_BATCHES = 4
# From here on, of what noise allows, two datasets are said to pull in one direction.
_ONE_DIRECTION = 0.5


@dataclass(frozen=True)
class GradientCosines:
    """Cosines between D datasets, with 95 % bootstrap intervals over their batches.

    Attributes:
        names: the datasets.
        batches: (D,) how many of each.
        value: (D, D) `between`; on the diagonal `within`. nan where a dataset gives no gradient.
        low, high: (D, D) its interval.
        allowed: (D, D) as above, 1 on the diagonal; nan where a gradient is nothing but noise.
        allowed_low, allowed_high: (D, D) its interval; nan where the noise leaves none.
    """

    names: tuple[str, ...]
    batches: tuple[int, ...]
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    allowed: np.ndarray
    allowed_low: np.ndarray
    allowed_high: np.ndarray


def gradient_cosines(
    products: np.ndarray, dataset_of: np.ndarray, names: Sequence[str], seed: int = 0
) -> GradientCosines:
    """The cosines of D datasets from the inner products of the gradients of N batches.

    Args:
        products: (N, N) inner products.
        dataset_of: (N,) the dataset of each batch, 0 to D - 1; at least `FEWEST_BATCHES` of each.
        seed: of the bootstrap.
    """
    member = dataset_of == np.arange(len(names))[:, None]  # (D, N)
    sizes = member.sum(axis=1)
    value, allowed = _cosines(products, member.astype(np.float64)[None])
    generator = np.random.default_rng(seed)
    times = np.zeros((RESAMPLES, *member.shape))
    for dataset, own in enumerate(member):
        times[:, dataset, own] = generator.multinomial(
            sizes[dataset], np.full(sizes[dataset], 1 / sizes[dataset]), RESAMPLES
        )
    # One batch again and again has no other half.
    times = times[((times > 0).sum(axis=-1) >= 2).all(axis=-1)]
    values, alloweds = _cosines(products, times)
    (low, high), (allowed_low, allowed_high) = _interval(values), _interval(alloweds)
    return GradientCosines(
        tuple(names), tuple(sizes.tolist()), value[0], low, high, allowed[0], allowed_low, allowed_high
    )


def _interval(resamples: np.ndarray) -> np.ndarray:
    """(2, D, D) bounds over the resamples (R, D, D); nan where too many of them are."""
    lost = np.isnan(resamples).mean(axis=0) > _MOST_WITHOUT
    bounds = np.nanpercentile(np.where(lost, 0.0, resamples), _BOUNDS, axis=0)
    return np.where(lost, np.nan, bounds)


def _cosines(products: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`value` and `allowed` (R, D, D) of R resamples.

    Args:
        products: (N, N).
        times: (R, D, N) how often each batch counts for each dataset.
    """
    total = times.sum(axis=-1)  # (R, D)
    squares = np.einsum("rdn,n->rd", times, products.diagonal())
    sums = np.einsum("rdn,nm,rem->rde", times, products, times, optimize=True)
    own = np.einsum("rdd->rd", sums)
    # Pairs of two different batches: a batch that is drawn twice is no second opinion.
    twice = np.einsum("rdn,n->rd", times**2, products.diagonal())
    pairs = total**2 - (times**2).sum(axis=-1)
    agreement = (own - twice) / pairs  # mean <h, h'>
    halves = np.maximum(total // 2, 1)
    length = agreement + (squares / total - agreement) / halves  # mean |h|^2
    length = np.where(length > 0, length, np.nan)
    between = sums / (total[:, :, None] * total[:, None, :])
    diagonal = np.arange(times.shape[1])
    between[:, diagonal, diagonal] = agreement
    with np.errstate(invalid="ignore", divide="ignore"):
        value = between / np.sqrt(length[:, :, None] * length[:, None, :])
        kept = np.where(agreement > 0, agreement, np.nan)
        allowed = between / np.sqrt(kept[:, :, None] * kept[:, None, :])
    return value, allowed


def verdicts(cosines: GradientCosines) -> list[str]:
    """A sentence for each pair of datasets, the least agreeing first, and last those of which nothing can be told."""
    pairs = [(d, e) for d in range(len(cosines.names)) for e in range(d)]
    pairs.sort(key=lambda pair: np.inf if np.isnan(cosines.allowed_low[pair]) else cosines.allowed[pair])
    return [_verdict(cosines, e, d) for d, e in pairs]


def _batches_needed(cosines: GradientCosines, dataset: int) -> float:
    """With how many batches `within` would be a half, to two digits; infinite where it is nothing but noise.

    The noise of a half of m batches falls as 1 / m, so `within` is u / (u + v / m).
    """
    within = cosines.value[dataset, dataset]
    if not within > 0:
        return np.inf
    needed = 2 * (cosines.batches[dataset] // 2) * (1 / within - 1)
    return float(f"{max(needed, cosines.batches[dataset]):.1e}")


def _verdict(cosines: GradientCosines, first: int, second: int) -> str:
    pair = f"{cosines.names[first]} and {cosines.names[second]}"
    place = (first, second)
    low, high = cosines.allowed_low[place], cosines.allowed_high[place]
    if np.isnan(cosines.value[place]):
        return f"{pair}: one of them gives no gradient, so there is nothing to compare"
    if np.isnan(low):
        own = ", ".join(f"{cosines.names[one]} {cosines.value[one, one]:.2f}" for one in place)
        needed = max(_batches_needed(cosines, one) for one in place)
        some = f", about {needed:,.0f}" if needed < np.inf else ""
        return f"{pair}: too noisy to tell (a dataset's cosine with itself: {own}); give more --batches{some}"
    meaning = "they pull neither with nor against each other, as far as these batches tell"
    if high < 0:
        meaning = "they pull against each other here"
    elif low > 0:
        meaning = "they pull in one direction here" if low > _ONE_DIRECTION else "they agree in part"
    return (
        f"{pair}: cosine {cosines.value[place]:.2f}, which is {cosines.allowed[place]:.2f} ({low:.2f} to {high:.2f}) "
        f"of what noise allows: {meaning}"
    )
