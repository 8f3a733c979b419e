"""Why a prompt takes the experts it takes."""

from typing import Any

from llava_mocle.clustering import ClusterModel
from llava_mocle.inference.request import Explanation
from llava_mocle.inference.routing_summary import summarize_routing

NEAREST_INSTRUCTIONS = 5


def explain_routing(
    model: Any,
    adapter: Any,
    cluster_model: ClusterModel,
    *,
    route_text: str,
    cluster: int,
    distance: float | None,
) -> Explanation:
    """What a cluster is about, and what its gates do.

    Args:
        model: the adapted model.
        adapter: its `MocleConfig`; None where no gate looks at the cluster.
    """
    gates: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    universal, num_sites = None, 0
    if adapter is not None:
        summary = summarize_routing(
            model.base_model.clean_gates(),
            top_k=adapter.top_k,
            universal=adapter.universal_expert,
            gate_mode=adapter.gate_mode,
        )
        gates, shares = tuple(summary.mean_gates[cluster].tolist()), tuple(summary.expert_share[cluster].tolist())
        num_sites = summary.num_sites
        if summary.universal_weight is not None:
            universal = float(summary.universal_weight[cluster])
    return Explanation(
        route_text=route_text,
        cluster_id=cluster,
        cluster_distance=distance,
        nearest_instructions=tuple(
            example.text for example in cluster_model.nearest_examples(cluster, NEAREST_INSTRUCTIONS)
        ),
        mean_gates=gates,
        expert_share=shares,
        universal_weight=universal,
        num_sites=num_sites,
    )
