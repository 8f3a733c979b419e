"""k-means as in the paper (arXiv 2312.12379, section 3.2): minimise sum_j sum_{i in S_j} ||e_i - c_j||^2.

The sum runs over all instructions of the training data, so an instruction that occurs n times weighs n; only the
distinct ones are looked at.

Up to `SMALL` points, scikit-learn runs every restart on all of them. More points may be a memory-mapped file: the
restarts run on a sample, and the best of them is run on over all points.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from llava_mocle.clustering.lloyd import Fit, Lloyd
from llava_mocle.errors import ConfigError
from llava_mocle.io.progress import progress as reported

# Up to so many points, no sample is needed.
SMALL = 32768
# The sample of the restarts, and the part of it that a k-means++ start looks at: points a cluster, and at least in all.
_SAMPLE, _SAMPLE_AT_LEAST = 256, 16384
_START, _START_AT_LEAST = 64, 4096

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
    progress: bool = False,
) -> KMeansResult:
    """Run Lloyd's algorithm from `n_init` k-means++ starts, and the one of lowest inertia until no assignment changes.

    Args:
        embeddings: (N, D) distinct points.
        weights: (N,) how often each occurs; default 1.
        init: (K, D) initial centroids in place of the k-means++ starts.
        progress: whether to report on passes over more than `SMALL` points.

    Raises:
        ConfigError: K is below 1, larger than N, or larger than the number of points that differ.
    """
    if n_init < 1:
        raise ConfigError(f"cluster_n_init is {n_init}, expected at least 1")
    check_enough(num_clusters, len(embeddings))
    _check_different(embeddings, num_clusters)
    weights = np.ones(len(embeddings)) if weights is None else np.asarray(weights, dtype=np.float64)
    if len(embeddings) <= SMALL:
        return _fit_all(embeddings, num_clusters, seed, n_init, weights, init)
    return _fit_sampled(embeddings, num_clusters, seed, n_init, weights, init, progress)


def _fit_all(
    embeddings: np.ndarray, num_clusters: int, seed: int, n_init: int, weights: np.ndarray, init: np.ndarray | None
) -> KMeansResult:
    """Every restart on all points, in float64."""
    points = np.array(embeddings, dtype=np.float64)
    if init is None:
        best = _lloyd(points, weights, num_clusters, "k-means++", n_init, seed, _RESTART_ITERATIONS, _RESTART_TOLERANCE)
        start, iterations = best.cluster_centers_, int(best.n_iter_)
    else:
        start, iterations = np.asarray(init, dtype=np.float64), 0
    final = _lloyd(points, weights, num_clusters, start, 1, seed, _FINAL_ITERATIONS, 0.0)
    labels = _by_size(final.labels_, weights, num_clusters)[final.labels_]
    exact = np.asarray(embeddings, dtype=np.float64)
    # scikit-learn's threads add up in any order. These means do not depend on it: same labels, same bits.
    centroids = np.stack(
        [np.average(exact[labels == k], axis=0, weights=weights[labels == k]) for k in range(num_clusters)]
    )
    inertia = float((weights * ((exact - centroids[labels]) ** 2).sum(axis=1)).sum())
    counts = np.bincount(labels, weights=weights, minlength=num_clusters)
    return KMeansResult(centroids, labels, counts, inertia, iterations + int(final.n_iter_))


def _fit_sampled(
    embeddings: np.ndarray,
    num_clusters: int,
    seed: int,
    n_init: int,
    weights: np.ndarray,
    init: np.ndarray | None,
    progress: bool,
) -> KMeansResult:
    """The restarts on a sample, the best of them on all points."""
    iterations = 0
    if init is None:
        best = _best_start(embeddings, num_clusters, seed, n_init, weights)
        init, iterations = best.centroids, best.passes
    with reported(0, "k-means", "point", shown=progress, unit_scale=True) as bar:
        final = Lloyd(embeddings, weights).run(init, _FINAL_ITERATIONS, said=bar.update)
    number = _by_size(final.labels, weights, num_clusters)
    labels = number[final.labels]
    centroids = np.empty_like(final.centroids)
    centroids[number] = final.centroids
    counts = np.bincount(labels, weights=weights, minlength=num_clusters)
    return KMeansResult(centroids, labels, counts, final.inertia, iterations + final.passes)


def _best_start(embeddings: np.ndarray, num_clusters: int, seed: int, n_init: int, weights: np.ndarray) -> Fit:
    """The restart of lowest inertia on the sample."""
    from sklearn.cluster import kmeans_plusplus

    generator = np.random.default_rng(seed)
    rows, times = _sample(weights, max(_SAMPLE * num_clusters, _SAMPLE_AT_LEAST), generator)
    points = np.asarray(embeddings[rows])
    # scikit-learn's measure of what is little for data of this spread.
    tolerance = _RESTART_TOLERANCE * float(points.var(axis=0, dtype=np.float64).mean())
    lloyd, best = Lloyd(points, times), None
    for _ in range(n_init):
        part = generator.permutation(len(rows))[: max(_START * num_clusters, _START_AT_LEAST)]
        state = int(generator.integers(2**31))
        with threadpool_limits(1):  # a sum that threads share out may differ in its last bit, and draw another point
            start, _ = kmeans_plusplus(points[part], num_clusters, sample_weight=times[part], random_state=state)
        found = lloyd.run(start, _RESTART_ITERATIONS, tolerance)
        if best is None or found.inertia < best.inertia:
            best = found
    assert best is not None
    return best


def _sample(weights: np.ndarray, size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw `size` times, in proportion to the weights: (the rows drawn, in order; how often each was, float64).

    One draw from each of `size` equal shares of the mass: a heavy point is drawn as often as it weighs.
    """
    mass = weights.cumsum()
    places = (np.arange(size) + generator.random(size)) * (mass[-1] / size)
    rows, times = np.unique(np.searchsorted(mass, places, side="right").clip(max=len(weights) - 1), return_counts=True)
    return rows, times.astype(np.float64)


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
        part = np.asarray(points[start : start + _CHUNK], dtype=np.float64)
        # + 0.0 makes -0.0 the zero that it equals.
        seen.update(point.tobytes() for point in part.round(4) + 0.0)
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
    """The new number (K,) int64 of each cluster."""
    counts = np.bincount(labels, weights=weights, minlength=num_clusters)
    _, earliest = np.unique(labels, return_index=True)
    order = np.lexsort((earliest, -counts))
    number = np.empty(num_clusters, dtype=np.int64)
    number[order] = np.arange(num_clusters)
    return number
