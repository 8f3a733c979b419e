"""The nearest centroid, and by how much.

float64 points are measured in float64. float32 points are measured in float32, which is several times as fast, and in
float64 wherever float32 cannot tell: the ids are those of float64, ties to the lowest index.
"""

import numpy as np

# Two centroids closer than this to being equally near are a tie for the float64 path (its error is about 1e-15).
_EXACT_TIE = 1e-9
# Distances that are looked at together: rows times centroids.
_TABLE = 1 << 20
# Two centroids as near each other as this are one place: nothing tells on which side of their border a point is.
_SAME = 1e-6
# Squares below so many times their possible error give no good distance.
_POOR = 64


def nearest_with_margin(
    embeddings: np.ndarray, centroids: np.ndarray, close: float = 1e-4
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (ids (N,) int64, distances (N,), margins (N,)): Euclidean distance to the nearest centroid, and how much
    farther the second nearest is (infinite for K = 1).

    Args:
        close: margins up to this one are those of float64. Larger ones of float32 points carry float32's error.
    """
    ids = np.empty(len(embeddings), dtype=np.int64)
    distances, seconds = np.empty(len(embeddings)), np.empty(len(embeddings))
    step = rows_at_once(len(centroids))
    for start in range(0, len(embeddings), step):
        part = slice(start, start + step)
        points = np.asarray(embeddings[part])
        ids[part], distances[part], seconds[part], error = two_nearest(points, centroids, close)
        poor = np.flatnonzero(distances[part] ** 2 < _POOR * error)
        if len(poor) and points.dtype == np.float32:
            rows = start + poor
            ids[rows], distances[rows], seconds[rows] = _in_float64(points[poor], centroids)
    return ids, distances, seconds - distances


def two_nearest(
    points: np.ndarray, centroids: np.ndarray, close: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return (ids (N,) int64, distances to the nearest (N,), to the second nearest (N,), error).

    The error bounds how far the square of a distance is off in the points' precision. Float32 rows whose nearest
    centroid leads by no more than `close`, for all that is certain, are measured in float64. `points` should be few: a
    table of rows times centroids is held.
    """
    squares = np.einsum("ij,ij->i", points, points)
    norms = np.einsum("ij,ij->i", centroids, centroids, dtype=np.float64)
    # A sum of D products is off by at most D units in the last place of its length; the few more are the other steps'.
    unit = float(np.finfo(points.dtype).eps) / 2
    longest = np.sqrt(float(squares.max(initial=0.0))) + np.sqrt(norms.max())
    error = (points.shape[1] + 8) * unit * float(longest) ** 2
    if points.dtype != np.float32:
        return *_in_float64(points, centroids), error
    narrow = centroids.astype(np.float32)
    table = points @ (-2 * narrow).T
    table += norms.astype(np.float32)
    rows = np.arange(len(points))
    ids = table.argmin(axis=1)
    first = table[rows, ids]
    table[rows, ids] = np.inf
    second = table.min(axis=1)
    near, far = first.astype(np.float64) + squares, second.astype(np.float64) + squares
    unsure = np.sqrt(np.maximum(far - error, 0)) - np.sqrt(np.maximum(near + error, 0)) <= close
    distances, seconds = np.sqrt(np.maximum(near, 0)), np.sqrt(np.maximum(far, 0))
    again = np.flatnonzero(unsure)
    if len(again):
        ids[again], distances[again], seconds[again] = _in_float64(points[again], centroids)
    return ids, distances, seconds, error


def _in_float64(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points, centroids = np.asarray(points, dtype=np.float64), np.asarray(centroids, dtype=np.float64)
    squares = (points**2).sum(axis=1)[:, None] - 2 * points @ centroids.T + (centroids**2).sum(axis=1)
    table = np.sqrt(np.maximum(squares, 0))
    ids = table.argmin(axis=1)
    if table.shape[1] == 1:
        return ids, table[:, 0], np.full(len(points), np.inf)
    ordered = np.partition(table, 1, axis=1)
    return ids, ordered[:, 0], ordered[:, 1]


def second_nearest(points: np.ndarray, centroids: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids (N,) int64, distances (N,) float64) of the nearest centroid other than `ids` (N,), for K >= 2."""
    centroids = np.asarray(centroids, dtype=np.float64)
    others, distances = np.empty(len(points), dtype=np.int64), np.empty(len(points))
    for index, point in enumerate(np.asarray(points, dtype=np.float64)):
        table = np.sqrt(((centroids - point) ** 2).sum(axis=1))
        table[ids[index]] = np.inf
        others[index] = table.argmin()
        distances[index] = table[others[index]]
    return others, distances


def border_distances(points: np.ndarray, ids: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return (N,) float64: how far a point must move at least until another centroid is as near as its own.

    That is its distance to the nearest of the planes halfway between its centroid and another one: of the squares'
    difference, half, over the distance of the two centroids. Never less than half the margin, and often several times
    that. 0 or less where another centroid is as near; infinite for K = 1.
    """
    centroids = np.asarray(centroids, dtype=np.float64)
    norms = (centroids**2).sum(axis=1)
    apart = np.sqrt(np.maximum(norms[:, None] - 2 * centroids @ centroids.T + norms, 0))
    result = np.empty(len(points))
    step = rows_at_once(len(centroids))
    for start in range(0, len(points), step):
        own = ids[start : start + step]
        rows = np.arange(len(own))
        squares = norms - 2 * np.asarray(points[start : start + step], dtype=np.float64) @ centroids.T
        lead = squares - squares[rows, own][:, None]
        lengths = 2 * apart[own]
        heights = np.divide(lead, lengths, out=np.zeros_like(lead), where=lengths > _SAME)
        heights[rows, own] = np.inf
        result[start : start + step] = heights.min(axis=1)
    return result


def rows_at_once(num_centroids: int) -> int:
    """For how many points a table of distances is small."""
    return max(_TABLE // num_centroids, 64)


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
