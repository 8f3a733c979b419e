"""What the gates of each cluster do, averaged over the adapted sites."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RoutingSummary:
    """Averages over sites, one row a cluster.

    Attributes:
        mean_gates: (K, E) mean gate probability.
        expert_share: (K, E) share of the sites at which the expert has the largest gate.
        applied_weight: (K, E) mean weight with which the expert enters the output (0 where it isn't chosen).
        universal_weight: (K,) mean of 1 - G_max; None without a universal expert.
        num_sites: S.
    """

    mean_gates: np.ndarray
    expert_share: np.ndarray
    applied_weight: np.ndarray
    universal_weight: np.ndarray | None
    num_sites: int


def summarize_routing(
    gates: Any, *, top_k: int = 1, universal: bool = True, gate_mode: str = "paper"
) -> RoutingSummary:
    """Summarise clean gates (K, S, E), a tensor or array of softmax probabilities, as `MocleModel.clean_gates` gives.

    A chosen expert enters the output with G_e (`gate_mode` "paper") or G_e squared ("released"), the universal one
    with 1 - G_max.
    """
    probabilities = np.asarray(gates.detach().float().cpu() if hasattr(gates, "detach") else gates, dtype=np.float64)
    num_experts = probabilities.shape[-1]
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    kept = np.zeros_like(probabilities, dtype=bool)
    np.put_along_axis(kept, order[..., :top_k], True, axis=-1)
    chosen = order[..., 0][..., None] == np.arange(num_experts)
    weights = probabilities**2 if gate_mode == "released" else probabilities
    return RoutingSummary(
        mean_gates=probabilities.mean(axis=1),
        expert_share=chosen.mean(axis=1),
        applied_weight=np.where(kept, weights, 0.0).mean(axis=1),
        universal_weight=(1 - probabilities.max(axis=-1)).mean(axis=1) if universal else None,
        num_sites=probabilities.shape[1],
    )
