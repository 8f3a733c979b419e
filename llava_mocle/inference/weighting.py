"""Requests between two clusters, or far from all of them: how much each cluster counts for one. Off by default."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava_mocle.errors import ConfigError, RoutingError

if TYPE_CHECKING:
    from llava_mocle.clustering import ClusterModel

# A request is far where it is farther from its centroid than this share of the instructions that were clustered.
FAR = 0.95


@dataclass(frozen=True)
class Weighting:
    """How much clusters count for a request.

    Attributes:
        far_to_universal: a request at a distance d from its nearest centroid gives it the weight min(1, d_ref / d),
            d_ref being the `FAR` quantile of the training distances. The universal expert gets what is missing.
        soft: the temperature T of a soft assignment: the two nearest clusters count in proportion to exp(-d^2 / T).
            None: the nearest alone.
    """

    far_to_universal: bool = False
    soft: float | None = None

    def __bool__(self) -> bool:
        return self.far_to_universal or self.soft is not None

    def describe(self) -> str:
        """As answer files record it; nothing where both are off."""
        far = " far_to_universal" if self.far_to_universal else ""
        return far if self.soft is None else f"{far} soft_assignment={self.soft:g}"

    def check(self, adapter: Any, cluster_model: ClusterModel | None, path: str | os.PathLike[str]) -> None:
        """Refuse what the model cannot do.

        Args:
            adapter: its `MocleConfig`; None without an adapter.
            path: the model's folder, named in errors.

        Raises:
            ConfigError: the temperature is not above 0.
            RoutingError: the model is not routed by cluster, or has no universal expert or no gates to mix.
            ClusterModelError: the cluster model does not record the quantile.
        """
        if not self:
            return
        if self.soft is not None and not 0 < self.soft < math.inf:
            raise ConfigError(f"soft_assignment is {self.soft}; it must be a number above 0.")
        name = "far_to_universal" if self.far_to_universal else "soft_assignment"
        if getattr(adapter, "router", None) != "cluster" or cluster_model is None:
            raise RoutingError(f"{path}: {name} is for models routed by cluster, and this one is not; leave it out.")
        if adapter.gates == "fixed":
            raise RoutingError(
                f"{path}: {name} weighs the gates of clusters, and gates='fixed' has none; leave it out."
            )
        if self.far_to_universal:
            if not adapter.universal_expert:
                raise RoutingError(
                    f"{path}: far_to_universal gives weight to the universal expert, which this model lacks; leave it "
                    "out."
                )
            cluster_model.distance_quantile(FAR)
        if self.soft is not None and cluster_model.num_clusters < 2:
            raise RoutingError(f"{path}: soft_assignment mixes two clusters, and this model has one; leave it out.")

    def weights(self, distances: Sequence[float], far_distance: float | None) -> list[float]:
        """How much each cluster counts.

        Args:
            distances: to the nearest centroid, and to the second nearest for a soft assignment.
            far_distance: d_ref.
        """
        nearest = distances[0]
        scale = 1.0
        if self.far_to_universal and far_distance is not None and nearest > far_distance:
            scale = far_distance / nearest
        if self.soft is None:
            return [scale]
        # Relative to the nearest, so that nothing underflows.
        parts = [math.exp((nearest**2 - distance**2) / self.soft) for distance in distances]
        return [scale * part / sum(parts) for part in parts]


# The nearest cluster alone counts.
NEAREST = Weighting()
