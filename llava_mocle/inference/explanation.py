"""Why a prompt takes the experts it takes: its cluster, and what the gates of that cluster do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from llava_mocle.clustering import ClusterModel

NEAREST_INSTRUCTIONS = 5


@dataclass(frozen=True)
class RoutingSummary:
    """What the gates of K clusters do, averaged over S sites with E experts.

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
    """Average clean gates (K, S, E) over the sites.

    A chosen expert enters the output with G_e (`gate_mode` "paper") or G_e squared ("released"), the universal one
    with 1 - G_max.

    Args:
        gates: a tensor or array of softmax probabilities, as `MocleModel.clean_gates` returns them.
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


@dataclass(frozen=True)
class Explanation:
    """Why a prompt takes the experts it takes; the gates are averaged over the sites, and empty without a gate.

    Attributes:
        route_text: the text that was embedded.
        cluster_id: the cluster of the prompt.
        cluster_distance: as in `Prediction`.
        nearest_instructions: training instructions nearest the cluster's centroid.
        mean_gates: (E,) mean clean gate of each expert.
        expert_share: (E,) share of the sites at which the expert is chosen.
        universal_weight: mean weight of the universal expert; None without one.
        num_sites: the number of sites; 0 where no gate looks at the cluster.
    """

    route_text: str
    cluster_id: int
    cluster_distance: float | None
    nearest_instructions: tuple[str, ...]
    mean_gates: tuple[float, ...]
    expert_share: tuple[float, ...]
    universal_weight: float | None
    num_sites: int


def explain_routing(
    model: Any,
    adapter: Any,
    cluster_model: ClusterModel,
    *,
    route_text: str,
    cluster: int,
    distance: float | None,
    mixture: Sequence[tuple[int, float]] = (),
) -> Explanation:
    """What a cluster is about, and what its gates do.

    Args:
        model: the adapted model.
        adapter: its `MocleConfig`; None where no gate looks at the cluster.
        mixture: the clusters whose gates count, and how much each does; none: this one alone.
    """
    summary = None
    if adapter is not None:
        gates = model.base_model.clean_gates()
        summary = summarize_routing(
            sum(weight * gates[other] for other, weight in mixture or [(cluster, 1.0)]).unsqueeze(0),
            top_k=adapter.top_k,
            universal=adapter.universal_expert,
            gate_mode=adapter.gate_mode,
        )
    universal = summary.universal_weight if summary else None
    examples = cluster_model.nearest_examples(cluster, NEAREST_INSTRUCTIONS)
    return Explanation(
        route_text=route_text,
        cluster_id=cluster,
        cluster_distance=distance,
        nearest_instructions=tuple(example.text for example in examples),
        mean_gates=tuple(summary.mean_gates[0].tolist()) if summary else (),
        expert_share=tuple(summary.expert_share[0].tolist()) if summary else (),
        universal_weight=None if universal is None else float(universal[0]),
        num_sites=summary.num_sites if summary else 0,
    )
