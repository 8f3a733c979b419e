"""routing.json of a trained model: which adapter a request takes, and what is known of each."""

import logging
from typing import Any

from llava_mocle.clustering.instruction import InstructionRule
from llava_mocle.errors import ClusterModelError
from llava_mocle.export.bundle import ClusterEntry, OutOfDistribution, Routing, adapter_name
from llava_mocle.export.images import image_facts
from llava_mocle.inference.explanation import NEAREST_INSTRUCTIONS
from llava_mocle.inference.generation import Stopping
from llava_mocle.inference.prompt_router import dataset_names
from llava_mocle.inference.weighting import FAR

logger = logging.getLogger(__name__)


def routing_of(loaded: Any, clusters: list[int], stopping: Stopping) -> Routing:
    """What a router needs to know.

    Args:
        loaded: a `LoadedModel` with a MoCLE adapter that is routed by cluster or dataset.
        clusters: those that are exported.
    """
    config = loaded.model.peft_config[loaded.model.active_adapter]
    by_cluster = config.router == "cluster"
    turns = loaded.recipe.get("instruction_turns") or InstructionRule().turns
    rule = loaded.cluster_model.rule if by_cluster else InstructionRule(turns)
    return Routing(
        router=config.router,
        num_experts=config.num_experts,
        universal=config.universal_expert,
        sites=tuple(config.sites),
        clusters=tuple(cluster_entry(loaded, cluster) for cluster in clusters),
        ood=_far(config, loaded.cluster_model) if by_cluster else None,
        instruction=rule,
        template=loaded.template,
        image=image_facts(
            loaded.model.config, loaded.image_processor, loaded.image_aspect_ratio, loaded.image_tokens_per_image
        ),
        stop_token_ids=stopping.token_ids,
        stop_strings=stopping.strings,
        context_length=getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None),
        num_clusters=config.num_clusters,
    )


def cluster_entry(loaded: Any, cluster: int) -> ClusterEntry:
    """What is known of a cluster (or dataset) of a model as `routing_of` takes it."""
    model, config = loaded.model, loaded.model.peft_config[loaded.model.active_adapter]
    experts, gates, left_over = {}, {}, []
    routing = model.base_model.cluster_routing(cluster, model.active_adapter)
    for index, site in enumerate(config.sites):
        assignment = routing.site(index)
        slots, weights = assignment.plan.table[0].tolist(), assignment.weight[0].tolist()
        experts[site] = tuple(slots[: config.top_k])
        gates[site] = tuple(round(weight, 6) for weight in weights[: config.top_k])
        left_over += weights[config.top_k :]
    names = dataset_names(loaded.recipe) if config.router == "dataset" else []
    clustered = loaded.cluster_model if config.router == "cluster" else None
    return ClusterEntry(
        cluster=cluster,
        adapter=adapter_name(cluster),
        experts=experts,
        gates=gates,
        universal_weight=round(sum(left_over) / len(left_over), 6) if left_over else None,
        samples=float(clustered.counts[cluster]) if clustered else 0.0,
        nearest=tuple(item.text for item in clustered.nearest_examples(cluster, NEAREST_INSTRUCTIONS))
        if clustered
        else (),
        name=names[cluster] if cluster < len(names) else None,
    )


def _far(config: Any, cluster_model: Any) -> OutOfDistribution | None:
    """When an instruction is far from every cluster; None where nothing can answer it, or nobody knows."""
    if not config.universal_expert:
        return None
    try:
        return OutOfDistribution(FAR, cluster_model.distance_quantile(FAR))
    except ClusterModelError as error:
        logger.warning("no threshold for instructions far from every cluster: %s", error)
        return None
