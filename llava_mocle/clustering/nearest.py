"""The nearest centroid, and by how much: float64 arithmetic, ties to the lowest index."""

import numpy as np

# Two centroids closer than this to being equally near are a tie for the float64 path (its error is about 1e-15).
_EXACT_TIE = 1e-9
_CHUNK = 16384


def nearest_with_margin(embeddings: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (ids (N,) int64, distances (N,), margins (N,)): Euclidean distance to the nearest centroid, and how much
    farther the second nearest is (infinite for K = 1)."""
    centroids = np.asarray(centroids, dtype=np.float64)
    ids = np.empty(len(embeddings), dtype=np.int64)
    distances, margins = np.empty(len(embeddings)), np.full(len(embeddings), np.inf)
    centroid_norms = (centroids**2).sum(axis=1)
    for start in range(0, len(embeddings), _CHUNK):
        part = slice(start, start + _CHUNK)
        points = np.asarray(embeddings[part], dtype=np.float64)
        squares = (points**2).sum(axis=1)[:, None] - 2 * points @ centroids.T + centroid_norms
        table = np.sqrt(np.maximum(squares, 0))
        ids[part] = table.argmin(axis=1)
        ordered = np.partition(table, 1, axis=1) if table.shape[1] > 1 else table
        distances[part] = ordered[:, 0]
        if table.shape[1] > 1:
            margins[part] = ordered[:, 1] - ordered[:, 0]
    return ids, distances, margins


def nearest_exact(embeddings: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids (N,) int64, distances (N,)) for float64 embeddings; of centroids within 1e-9 the first wins."""
    centroids = np.asarray(centroids, dtype=np.float64)
    ids = np.empty(len(embeddings), dtype=np.int64)
    distances = np.empty(len(embeddings))
    for index, point in enumerate(np.asarray(embeddings, dtype=np.float64)):
        # Differences first: the expanded square loses digits where a point lies on a centroid.
        table = np.sqrt(((centroids - point) ** 2).sum(axis=1))
        ids[index] = np.flatnonzero(table <= table.min() + _EXACT_TIE)[0]
        distances[index] = table[ids[index]]
    return ids, distances
