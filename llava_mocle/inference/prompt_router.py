"""Which cluster (or dataset) a request is routed by, by the same rule as in training."""

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llava_mocle.clustering.instruction import instruction_from_prompt
from llava_mocle.errors import RoutingError
from llava_mocle.inference.request import Request
from llava_mocle.inference.weighting import FAR, NEAREST, Weighting

if TYPE_CHECKING:
    from llava_mocle.clustering import ClusterModel

_MOST_ROUTES = 100_000
# The last bits of an embedding depend on the batch it was computed in. Rounded, a resumed run writes the same file.
_DISTANCE_DIGITS = 5


class PromptRouter:
    """Finds the cluster of requests. Texts are remembered, because benchmarks repeat a few of them thousands of times.

    Args:
        cluster_model: None for a model without clusters.
        path: the model's folder, named in errors.
        weighting: how much clusters count for a request; it must fit the model (see `Weighting.check`).
    """

    def __init__(
        self,
        cluster_model: "ClusterModel | None",
        path: str | os.PathLike[str],
        weighting: Weighting = NEAREST,
    ) -> None:
        self.cluster_model = cluster_model
        self.path = path
        self.weighting = weighting
        self._routes: dict[str, tuple[int, float]] = {}
        self._mixtures: dict[str, tuple[list[int], list[float]]] = {}

    @cached_property
    def beyond(self) -> float | None:
        """The distance beyond which the universal expert answers alone; None where no distance is too far."""
        if self.weighting.universal_beyond is None or self.cluster_model is None:
            return None
        return self.cluster_model.distance_quantile(self.weighting.universal_beyond)

    def text_of(self, request: Request) -> str:
        """The text that routes a request."""
        assert self.cluster_model is not None
        return instruction_from_prompt(request.routing_texts, self.cluster_model.rule)

    def route(self, requests: Sequence[Request]) -> tuple[list[int | None], list[float | None]]:
        """Cluster and distance of each request. A request with a `cluster_id` is not embedded and has no distance.

        Raises:
            RoutingError: a `cluster_id` that the model does not have.
        """
        clusters: list[int | None] = [None] * len(requests)
        distances: list[float | None] = [None] * len(requests)
        for row, request in enumerate(requests):
            if request.cluster_id is not None:
                self._check(request.cluster_id)
                clusters[row] = request.cluster_id
        if self.cluster_model is not None:
            texts = {row: self.text_of(request) for row, request in enumerate(requests) if request.cluster_id is None}
            self._remember(sorted(set(texts.values())))
            for row, text in texts.items():
                clusters[row], distances[row] = self._routes[text]
        return clusters, distances

    def mixtures(self, requests: Sequence[Request]) -> tuple[list[list[int]], list[list[float]]] | None:
        """The clusters of each request and how much each counts, (B, n) both; None where the nearest alone counts.

        A request with a `cluster_id` has that one, with weight 1.

        Raises:
            RoutingError: as `route`.
        """
        if not self.weighting:
            return None
        clusters, distances = self.route(requests)
        second = [] if self.weighting.soft is None else [0.0]
        found: list[tuple[list[int], list[float]]] = []
        for request, cluster, distance in zip(requests, clusters, distances, strict=True):
            assert cluster is not None
            if distance is None:
                found.append(([cluster] * (1 + len(second)), [1.0, *second]))
            else:
                found.append(self._mixture(self.text_of(request), cluster, distance))
        return [ids for ids, _ in found], [weights for _, weights in found]

    def _mixture(self, text: str, cluster: int, distance: float) -> tuple[list[int], list[float]]:
        assert self.cluster_model is not None
        if text not in self._mixtures:
            clusters, distances = [cluster], [distance]
            if self.weighting.soft is not None:
                ids, exact = self.cluster_model.assign_two([text])
                clusters.append(int(ids[0, 1]))
                distances.append(round(float(exact[0, 1]), _DISTANCE_DIGITS))
            far = self.cluster_model.distance_quantile(FAR) if self.weighting.far_to_universal else None
            if len(self._mixtures) > _MOST_ROUTES:
                self._mixtures.clear()
            self._mixtures[text] = clusters, self.weighting.weights(distances, far, self.beyond)
        return self._mixtures[text]

    def _remember(self, texts: Sequence[str]) -> None:
        assert self.cluster_model is not None
        if len(self._routes) > _MOST_ROUTES:
            self._routes.clear()
        new = [text for text in texts if text not in self._routes]
        if new:
            for text, cluster, distance in zip(new, *self.cluster_model.assign(new), strict=True):
                self._routes[text] = int(cluster), round(float(distance), _DISTANCE_DIGITS)

    def _check(self, cluster_id: int) -> None:
        if self.cluster_model is None:
            raise RoutingError(f"{self.path}: cluster_id was given, but this model has no clusters; leave it out.")
        if not 0 <= cluster_id < self.cluster_model.num_clusters:
            raise RoutingError(
                f"cluster_id is {cluster_id}; {self.path} has clusters 0 to {self.cluster_model.num_clusters - 1}."
            )


def dataset_names(recipe: Mapping[str, Any]) -> list[str]:
    """The names of the training datasets. A dataset's place in this list is its id for a dataset router."""
    entries = recipe.get("datasets") or []
    if isinstance(entries, str):
        entries = json.loads(entries)
    return [entry["name"] for entry in entries] or ["train"]


def dataset_id(request: Request, names: Sequence[str], path: str | os.PathLike[str]) -> int:
    """Index of the request's dataset.

    Raises:
        RoutingError: no dataset, or one that the model was not trained on.
    """
    if isinstance(request.dataset, int) and 0 <= request.dataset < len(names):
        return request.dataset
    if request.dataset in names:
        return names.index(str(request.dataset))
    raise RoutingError(
        f"{path}: this model is routed by dataset, and dataset is {request.dataset!r}; give one of {', '.join(names)}."
    )
