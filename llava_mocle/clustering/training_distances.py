"""How far the fitted instructions lie from their centroids: the nearest ones, as examples, and quantiles of all."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from llava_mocle.clustering.cluster_config import Example
from llava_mocle.errors import ClusterModelError

# The field of config.json's `fit` that holds them.
FIELD = "distance_quantiles"
LEVELS = (0.5, 0.9, 0.95, 0.99)
_DIGITS = 6


def quantiles(distances: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Level -> the least distance within which at least that share of all instructions lies.

    Args:
        distances: (N,) to the nearest centroid.
        weights: (N,) how often each instruction counts.
    """
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(np.asarray(weights, dtype=np.float64)[order])
    # A sum that misses a level by rounding alone has reached it.
    places = np.searchsorted(share, np.array(LEVELS) * share[-1] * (1 - 1e-12))
    found = np.asarray(distances, dtype=np.float64)[order][places]
    return {str(level): round(float(value), _DIGITS) for level, value in zip(LEVELS, found, strict=True)}


def of_assignments(table: pa.Table, rates: Mapping[str, float]) -> dict[str, float]:
    """The same of an assignment table.

    Args:
        rates: dataset -> how often each of its rows counts; others than these datasets are left out.
    """
    weights = np.array([rates.get(name, 0.0) for name in table["dataset"].cast(pa.string()).to_pylist()])
    return quantiles(table["distance"].to_numpy()[weights > 0], weights[weights > 0])


def quantile(fit: Mapping[str, object], level: float, place: str) -> float:
    """A quantile that a cluster model's `fit` records.

    Args:
        place: the cluster model's config.json, for the message.

    Raises:
        ClusterModelError: it records none; says how to get them.
    """
    recorded = fit.get(FIELD)
    found = recorded.get(str(level)) if isinstance(recorded, Mapping) else None
    if isinstance(found, (int, float)) and found > 0:
        return float(found)
    if not fit:
        raise ClusterModelError(
            f"{place}: records no {FIELD}, as these centroids were fitted by another program, so nobody knows how far "
            "their instructions lie; leave the option out that needs them"
        )
    raise ClusterModelError(
        f"{place}: records no {FIELD} of its instructions, as an earlier release wrote it, or they all lie on their "
        "centroids. Run the `llava-mocle cluster` command again that made the clusters: it adds them and leaves the "
        "clusters as they are. For a checkpoint, copy the new config.json over the one in its folder clusters"
    )


def nearest_examples(
    texts: Sequence[str], mass: np.ndarray, ids: np.ndarray, distances: np.ndarray, num_clusters: int, number: int
) -> list[list[Example]]:
    """For each cluster up to `number` of the fitted instructions, the nearest to its centroid first.

    Args:
        texts: N distinct instructions.
        mass: (N,) how often each counts.
        ids, distances: (N,) the cluster of each, and how far its centroid is.
    """
    order = np.lexsort((distances, ids))
    starts = np.searchsorted(ids[order], np.arange(num_clusters + 1))
    groups = []
    for cluster in range(num_clusters):
        nearest = order[starts[cluster] : starts[cluster + 1]][:number]
        groups.append(
            [Example(cluster, texts[i], float(mass[i]), round(float(distances[i]), 6)) for i in nearest.tolist()]
        )
    return groups
