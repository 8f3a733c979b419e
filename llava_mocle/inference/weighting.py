"""Requests between two clusters, or far from all of them: how much each cluster counts for one. Off by default."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava_mocle.clustering.training_distances import LEVELS
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
        universal_beyond: a level of the training distances, such as 0.99. A request farther from its nearest centroid
            than that quantile gets the universal expert alone. None: no request is too far.
    """

    far_to_universal: bool = False
    soft: float | None = None
    universal_beyond: float | None = None

    def __bool__(self) -> bool:
        return self.far_to_universal or self.soft is not None or self.universal_beyond is not None

    def describe(self) -> str:
        """As answer files record it; nothing where both are off."""
        far = " far_to_universal" if self.far_to_universal else ""
        soft = "" if self.soft is None else f" soft_assignment={self.soft:g}"
        return far + soft + ("" if self.universal_beyond is None else f" universal_beyond={self.universal_beyond:g}")

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
        to_universal = "far_to_universal" if self.far_to_universal else "universal_beyond"
        only_soft = self.universal_beyond is None and not self.far_to_universal
        name = "soft_assignment" if only_soft else to_universal
        if getattr(adapter, "router", None) != "cluster" or cluster_model is None:
            raise RoutingError(f"{path}: {name} is for models routed by cluster, and this one is not; leave it out.")
        if adapter.gates == "fixed":
            raise RoutingError(
                f"{path}: {name} weighs the gates of clusters, and gates='fixed' has none; leave it out."
            )
        if not only_soft and not adapter.universal_expert:
            raise RoutingError(
                f"{path}: {name} gives weight to the universal expert, which this model lacks; leave it out."
            )
        if self.far_to_universal:
            cluster_model.distance_quantile(FAR)
        if self.universal_beyond is not None:
            if self.universal_beyond not in LEVELS:
                raise ConfigError(
                    f"universal_beyond is {self.universal_beyond}; the cluster model records the quantiles "
                    f"{', '.join(map(str, LEVELS))}."
                )
            cluster_model.distance_quantile(self.universal_beyond)
        if self.soft is not None and cluster_model.num_clusters < 2:
            raise RoutingError(f"{path}: soft_assignment mixes two clusters, and this model has one; leave it out.")

    def weights(
        self, distances: Sequence[float], far_distance: float | None, beyond: float | None = None
    ) -> list[float]:
        """How much each cluster counts.

        Args:
            distances: to the nearest centroid, and to the second nearest for a soft assignment.
            far_distance: d_ref.
            beyond: the distance beyond which no cluster counts.
        """
        nearest = distances[0]
        if beyond is not None and nearest > beyond:
            return [0.0] * len(distances)
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
