"""`AdapterArguments` -> `MocleConfig`, and which parameters each stage trains."""

import re
from math import prod

from torch import nn

from llava_mocle.adapter import MocleConfig
from llava_mocle.errors import ConfigError
from llava_mocle.model.gathering import whole_shape
from llava_mocle.training.arguments import AdapterArguments

PROJECTOR = "multi_modal_projector"


def language_model_targets(names: str) -> str:
    """A regular expression for linears of these names (comma-separated) in the language model, never the vision tower.

    A name that is already a pattern (holds `.*`) is taken as it is.
    """
    parts = [part.strip() for part in names.split(",") if part.strip()]
    if not parts:
        raise ConfigError("lora_target_modules is empty; give names such as up_proj,down_proj")
    if len(parts) == 1 and ".*" in parts[0]:
        return parts[0]
    return rf".*language_model\..*\.({'|'.join(map(re.escape, parts))})"


def adapter_config(
    adapter: AdapterArguments, *, num_datasets: int, centroids: str | None, cluster_shape: tuple[int, int] | None = None
) -> MocleConfig:
    """The one `MocleConfig` of an adapter kind; the training code does not know which it runs.

    Args:
        adapter: the recipe's adapter keys.
        num_datasets: what the dataset router chooses from.
        centroids: the cluster model folder that the cluster embedding starts from.
        cluster_shape: (K, D), where the cluster model is not at hand (a dry run); None reads it from `centroids`.
    """
    return MocleConfig(
        task_type="CAUSAL_LM",
        target_modules=language_model_targets(adapter.lora_target_modules),
        modules_to_save=[PROJECTOR],
        r=adapter.lora_r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        **_routing_options(adapter, num_datasets, centroids, cluster_shape),
    )


def _routing_options(
    adapter: AdapterArguments, num_datasets: int, centroids: str | None, cluster_shape: tuple[int, int] | None
) -> dict:
    if adapter.adapter == "lora":
        return {"router": "none", "num_experts": 1, "universal_expert": False, "top_k": 1}
    options = {
        "num_experts": adapter.num_experts,
        "universal_expert": adapter.adapter == "mocle",
        "top_k": adapter.top_k,
        "temperature": adapter.gate_temperature,
        "gate_noise_std": adapter.gate_noise_std,
        "gate_mode": adapter.gate_mode,
    }
    if adapter.adapter == "dataset":
        return options | {"router": "dataset", "num_clusters": num_datasets}
    num_clusters, cluster_dim = cluster_shape or (None, None)
    return options | {
        "router": "cluster",
        "centroids": centroids,
        "num_clusters": num_clusters,
        "cluster_dim": cluster_dim,
    }


def freeze_all_but_projector(model: nn.Module) -> None:
    """Stage 1: only the projector is trained."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f"{PROJECTOR}." in name)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Number of values: all, trainable, and trainable of the adapter's experts, of its router, of the projector."""
    from llava_mocle.training.parameter_groups import group_of

    counts = {"all": 0, "trainable": 0, "experts": 0, "router": 0, "projector": 0}
    for name, parameter in model.named_parameters():
        size = prod(whole_shape(parameter))
        counts["all"] += size
        if parameter.requires_grad:
            counts["trainable"] += size
            counts[group_of(name)] += size
    return counts
