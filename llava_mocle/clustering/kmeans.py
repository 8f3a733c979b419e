"""k-means as in the paper (arXiv 2312.12379, section 3.2): minimise sum_j sum_{i in S_j} ||e_i - c_j||^2.

The sum runs over all instructions of the training data, so an instruction that occurs n times weighs n; only the
distinct ones are held in memory.
"""

import warnings
from dataclasses import dataclass

import numpy as np

from llava_mocle.errors import ConfigError

# Restarts stop at scikit-learn's usual tolerance; the best of them is then run on until no assignment changes.
_RESTART_ITERATIONS, _RESTART_TOLERANCE = 300, 1e-4
_FINAL_ITERATIONS = 1000
# Points looked at together when those that differ are counted.
_CHUNK = 1024


@dataclass(frozen=True)
class KMeansResult:
    """A fit: centroids (K, D) float64, labels (N,) int64, counts (K,) float64 (summed weights), inertia, iterations.

    Clusters are numbered by size, the largest first; of equal ones, the one that holds the earliest point first.
    """

    centroids: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    inertia: float
    iterations: int


def fit(
    embeddings: np.ndarray,
    num_clusters: int,
    seed: int = 0,
    n_init: int = 10,
    weights: np.ndarray | None = None,
    init: np.ndarray | None = None,
) -> KMeansResult:
    """Run Lloyd's algorithm in float64 from `n_init` k-means++ starts and keep the one of lowest inertia.

    Args:
        embeddings: (N, D) distinct points.
        weights: (N,) how often each occurs; default 1.
        init: (K, D) initial centroids in place of the k-means++ starts.

    Raises:
        ConfigError: K is below 1, larger than N, or larger than the number of points that differ.
    """
    points = np.array(embeddings, dtype=np.float64)
    if n_init < 1:
        raise ConfigError(f"cluster_n_init is {n_init}, expected at least 1")
    check_enough(num_clusters, len(points))
    _check_different(points, num_clusters)
    weights = np.ones(len(points)) if weights is None else np.asarray(weights, dtype=np.float64)
    if init is None:
        best = _lloyd(points, weights, num_clusters, "k-means++", n_init, seed, _RESTART_ITERATIONS, _RESTART_TOLERANCE)
        start, iterations = best.cluster_centers_, int(best.n_iter_)
    else:
        start, iterations = np.asarray(init, dtype=np.float64), 0
    final = _lloyd(points, weights, num_clusters, start, 1, seed, _FINAL_ITERATIONS, 0.0)
    labels = _by_size(final.labels_.astype(np.int64), weights, num_clusters)
    exact = np.asarray(embeddings, dtype=np.float64)
    # scikit-learn's threads add up in any order. These means do not depend on it: same labels, same bits.
    centroids = np.stack(
        [np.average(exact[labels == k], axis=0, weights=weights[labels == k]) for k in range(num_clusters)]
    )
    inertia = float((weights * ((exact - centroids[labels]) ** 2).sum(axis=1)).sum())
    counts = np.bincount(labels, weights=weights, minlength=num_clusters)
    return KMeansResult(centroids, labels, counts, inertia, iterations + int(final.n_iter_))


def check_enough(num_clusters: int, num_distinct: int) -> None:
    """Raise ConfigError where K clusters cannot be made from so many distinct instructions."""
    if num_clusters < 1:
        raise ConfigError(f"num_clusters is {num_clusters}, expected at least 1")
    if num_clusters > num_distinct:
        raise ConfigError(
            f"num_clusters is {num_clusters}, but there are only {num_distinct} distinct instructions: lower "
            f"num_clusters to {num_distinct} or less, or add data"
        )


def _check_different(points: np.ndarray, num_clusters: int) -> None:
    # Texts that a lower-casing tokenizer reads alike have the same embedding up to rounding.
    seen: set[bytes] = set()
    for start in range(0, len(points), _CHUNK):
        # + 0.0 makes -0.0 the zero that it equals.
        seen.update(point.tobytes() for point in points[start : start + _CHUNK].round(4) + 0.0)
        if len(seen) >= num_clusters:
            return
    different = len(seen)
    if different < num_clusters:
        raise ConfigError(
            f"num_clusters is {num_clusters}, but only {different} of the {len(points)} distinct instructions have "
            f"an embedding of their own: lower num_clusters to {different} or less, or add data"
        )


def _lloyd(points, weights, num_clusters, init, n_init, seed, max_iter, tol):  # type: ignore[no-untyped-def]
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    model = KMeans(
        num_clusters,
        init=init,
        n_init=n_init,
        max_iter=max_iter,
        tol=tol,
        random_state=seed,
        copy_x=False,
        algorithm="lloyd",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return model.fit(points, sample_weight=weights)
        except ConvergenceWarning as warning:
            raise ConfigError(
                f"num_clusters is {num_clusters}: k-means left a cluster empty ({warning}); lower "
                "num_clusters or add data"
            ) from warning


def _by_size(labels: np.ndarray, weights: np.ndarray, num_clusters: int) -> np.ndarray:
    counts = np.bincount(labels, weights=weights, minlength=num_clusters)
    _, earliest = np.unique(labels, return_index=True)
    order = np.lexsort((earliest, -counts))
    number = np.empty(num_clusters, dtype=np.int64)
    number[order] = np.arange(num_clusters)
    return number[labels]
