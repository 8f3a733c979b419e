"""Lloyd's iteration over points that need not fit into memory: block by block, several blocks at once.

The outcome does not depend on how many threads work: each block is computed by one thread, and what the blocks give is
added up in their order, in float64.

A point is looked at again only when its cluster could have changed. Its nearest centroid led by a margin when it was
last measured, and a centroid that moves by d changes a distance by at most d. So the later passes cost little, and
running until no assignment changes is affordable (Hamerly, "Making k-means even faster", 2010).
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from scipy.sparse import csr_array
from threadpoolctl import threadpool_info, threadpool_limits

from llava_mocle.clustering.nearest import rows_at_once, two_nearest

_BLOCK = 4096
T = TypeVar("T")


@dataclass(frozen=True)
class Fit:
    """Where the iteration ended: centroids (K, D) float64, the means of the points with each of the labels (N,) int32.

    `inertia` is in float64; `passes` is how many times points were assigned; `settled`: nothing changed any more.
    """

    centroids: np.ndarray
    labels: np.ndarray
    inertia: float
    passes: int
    settled: bool


class Lloyd:
    """The points, their weights, and the threads that work on them.

    Args:
        points: (N, D), float32 or float64; it may be a memory-mapped file.
        weights: (N,) float64, above 0.
        workers: threads; default: as many as a matrix product would use.
    """

    def __init__(self, points: np.ndarray, weights: np.ndarray, workers: int | None = None) -> None:
        self._points, self._weights = points, weights
        self._workers = workers or usual_workers()
        self._blocks = [slice(start, min(start + _BLOCK, len(points))) for start in range(0, len(points), _BLOCK)]

    def run(
        self, centroids: np.ndarray, passes: int, tolerance: float = 0.0, said: Callable[[int], Any] = lambda _: None
    ) -> Fit:
        """Iterate until no label changes, until the centroids move little, or `passes` times.

        Args:
            centroids: (K, D) to begin with.
            tolerance: the sum of the centroids' squared movements that is little.
            said: called with the number of points of each block that is done.
        """
        state = _State(len(self._points), np.array(centroids, dtype=np.float64))
        with self._threads() as each_block:
            done, changed = 0, True
            while changed and done < passes:
                changed = False
                for block, result in each_block(lambda part: self._assign(part, state)):
                    said(block.stop - block.start)
                    if result is not None:
                        changed = True
                        state.add(*result)
                done += 1
                if len(empty := np.flatnonzero(state.members == 0)):
                    self._fill(empty, state, each_block)
                    changed = True
                if changed and state.move() < tolerance:
                    break
            return self._finish(state, done, not changed, each_block)

    def _assign(self, block: slice, state: "_State") -> "tuple[np.ndarray, np.ndarray, np.ndarray] | None":
        """Label the points of a block anew; what this changes of sums, masses and members, None if nothing."""
        labels, lead = state.labels[block], state.lead[block]
        rows = np.flatnonzero(lead <= state.own[labels] + state.most)
        if not len(rows):
            return None
        points = np.asarray(self._points[block][rows])
        found = np.empty(len(rows), dtype=np.int32)
        step = rows_at_once(len(state.centroids))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            ids, nearest, second, error = two_nearest(points[part], state.centroids)
            found[part] = ids
            margin = np.sqrt(np.maximum(second**2 - error, 0)) - np.sqrt(nearest**2 + error)
            lead[rows[part]] = np.nextafter(
                (margin + state.own[ids] + state.most).astype(np.float32), -np.float32(np.inf)
            )
        before = labels[rows]
        moved = np.flatnonzero(found != before) if state.started else np.arange(len(rows))
        if not len(moved):
            return None
        labels[rows] = found
        weights = self._weights[block][rows[moved]]
        into, out_of = found[moved], before[moved] if state.started else None
        return _totals(points[moved], weights, into, out_of, len(state.centroids))

    def _fill(self, empty: np.ndarray, state: "_State", each_block: "_EachBlock") -> None:
        """Give each empty cluster the point that lies farthest from its centroid, but no cluster's only point."""
        distances = np.empty(len(self._points))
        for block, result in each_block(lambda part: self._squares(part, state)):
            distances[block] = result
        # Ties go to the earliest point.
        order = np.argsort(-distances, kind="stable")
        candidates = iter(order.tolist())
        for cluster in empty.tolist():
            index = next(point for point in candidates if state.members[state.labels[point]] > 1)
            old, new = state.labels[index : index + 1].copy(), np.array([cluster], dtype=np.int32)
            point = np.asarray(self._points[index : index + 1])
            state.add(*_totals(point, self._weights[index : index + 1], new, old, len(state.centroids)))
            state.labels[index], state.lead[index] = cluster, -np.inf

    def _squares(self, block: slice, state: "_State") -> np.ndarray:
        difference = self._points[block] - state.centroids[state.labels[block]]
        return np.einsum("ij,ij->i", difference, difference)

    def _finish(self, state: "_State", passes: int, settled: bool, each_block: "_EachBlock") -> Fit:
        """The means of the labels, added up afresh, and the inertia around them."""
        number = len(state.centroids)
        state.forget_sums()
        for _, result in each_block(
            lambda part: _totals(self._points[part], self._weights[part], state.labels[part], None, number)
        ):
            state.add(*result)
        state.move()
        inertia = 0.0
        for block, squares in each_block(lambda part: self._squares(part, state)):
            inertia += float((self._weights[block] * squares).sum())
        return Fit(state.centroids, state.labels, inertia, passes, settled)

    @contextmanager
    def _threads(self) -> "Iterator[_EachBlock]":
        """What calls a function on every block and yields (block, result) in the blocks' order."""
        with threadpool_limits(1), ThreadPoolExecutor(self._workers) as pool:

            def each_block(work: Callable[[slice], T]) -> Iterator[tuple[slice, T]]:
                # A few at a time: results of all blocks together could be large.
                step = 4 * self._workers
                for start in range(0, len(self._blocks), step):
                    blocks = self._blocks[start : start + step]
                    yield from zip(blocks, pool.map(work, blocks), strict=True)

            yield each_block


_EachBlock = Callable[[Callable[[slice], Any]], Iterator[tuple[slice, Any]]]


class _State:
    """Labels and margins of the points; sums, masses and members of the clusters."""

    def __init__(self, number: int, centroids: np.ndarray) -> None:
        self.centroids = centroids
        self.started = False
        self.labels = np.zeros(number, dtype=np.int32)
        # A point keeps its label while this is more than what its own centroid and the one that moved most have moved.
        self.lead = np.full(number, -np.inf, dtype=np.float32)
        self.own, self.most = np.zeros(len(centroids)), 0.0
        self.forget_sums()

    def forget_sums(self) -> None:
        self.sums = np.zeros_like(self.centroids)
        self.masses = np.zeros(len(self.centroids))
        self.members = np.zeros(len(self.centroids), dtype=np.int64)

    def add(self, sums: np.ndarray, masses: np.ndarray, members: np.ndarray) -> None:
        self.sums += sums
        self.masses += masses
        self.members += members

    def move(self) -> float:
        """Put every centroid at the mean of its points; the sum of the squared movements."""
        new = self.sums / self.masses[:, None]
        moved = np.sqrt(((new - self.centroids) ** 2).sum(axis=1))
        self.centroids, self.started = new, True
        self.own, self.most = self.own + moved, self.most + float(moved.max())
        return float((moved**2).sum())


def _totals(
    points: np.ndarray, weights: np.ndarray, into: np.ndarray, out_of: np.ndarray | None, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What points that join clusters, and leave others, change of the sums (K, D), masses (K,) and members (K,)."""
    columns = np.arange(len(points))
    if out_of is None:
        clusters, signed, ones = into, weights, np.ones(len(points), dtype=np.int64)
    else:
        clusters, signed = np.concatenate([into, out_of]), np.concatenate([weights, -weights])
        columns, ones = np.concatenate([columns, columns]), np.sign(signed).astype(np.int64)
    order = np.argsort(clusters, kind="stable")
    starts = np.concatenate([[0], np.bincount(clusters, minlength=number).cumsum()])
    chosen = csr_array((signed[order], columns[order], starts), shape=(number, len(points)))
    members = np.bincount(clusters, weights=ones, minlength=number).astype(np.int64)
    return chosen @ points.astype(np.float64), np.bincount(clusters, weights=signed, minlength=number), members


def usual_workers() -> int:
    """As many threads as a matrix product would use here."""
    threads = [library["num_threads"] for library in threadpool_info()]
    return max(threads, default=os.cpu_count() or 1)
