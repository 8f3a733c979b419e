"""What each stage trains: the projector alone, or projector and adapter, whose `MocleConfig` comes from the recipe."""

from collections.abc import Sequence
from math import prod
from typing import Any

from peft import get_peft_model
from torch import nn

from llava_mocle.adapter import MocleConfig
from llava_mocle.adapter.options import LEARNED_OPTIONS, LEARNED_ROUTERS
from llava_mocle.errors import ConfigError
from llava_mocle.families.parts import Parts, connector_parameters, linears_of, target_names, target_pattern
from llava_mocle.families.registry import family_of
from llava_mocle.model.gathering import whole_shape
from llava_mocle.recipe.keys import AdapterArguments
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.recipe.router_options import group_ids
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.training.setup.clusters import needs_clusters
from llava_mocle.training.setup.parameter_groups import group_of


def adapt(
    recipe: Recipe,
    args: MocleTrainingArguments,
    model: nn.Module,
    datasets: Sequence[str],
    base_record: str | None = None,
) -> nn.Module:
    """Freeze a base model and put the stage's trainable parts in.

    Args:
        datasets: the names that the dataset router chooses from.
        base_record: the identity of the base, which goes wherever the adapter is saved.

    Returns:
        The model to train: the base itself in stage 1, a `PeftModel` around it in stage 2.

    Raises:
        ConfigError: `lora_target_modules` names what the model does not have.
    """
    parts = parts_of(model)
    if recipe.stage.stage == "pretrain":
        freeze_all_but_projector(model)
    else:
        check_targets(recipe.adapter, model)
        centroids = recipe.cluster.cluster_model if needs_clusters(recipe) else None
        config = adapter_config(recipe.adapter, parts, datasets=datasets, centroids=centroids)
        config.base_record = base_record
        # DeepSpeed keeps float32 copies itself, and ZeRO-3 requires one dtype of all trainable parameters.
        model = get_peft_model(model, config, autocast_adapter_dtype=not args.deepspeed)
        choose_products(recipe.adapter, parts, model)
    if not args.deepspeed:
        # Trainable parameters of a 16-bit model in float32: in 16 bit, updates below a weight's spacing would vanish.
        # Autocast casts them where they are used.
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return model


def choose_products(adapter: AdapterArguments, parts: Parts, model: Any) -> None:
    """Let an adapted model compute its experts, and the MLPs around them, as the key `fused_adapter` says."""
    model.base_model.fused = adapter.fused_adapter
    if adapter.fused_adapter and parts.mlp is not None:
        model.base_model.fuse_mlps(parts.mlp, within=f"{parts.language_model}.")


def parts_of(model: nn.Module) -> Parts:
    """What a base model is made of."""
    config = model.config
    return family_of(config).parts(config)


def targets_of(adapter: AdapterArguments, parts: Parts) -> str:
    """The names of the linears to adapt, separated by commas: the recipe's, or else the family's."""
    return ",".join(parts.targets) if adapter.lora_target_modules is None else adapter.lora_target_modules


def check_targets(adapter: AdapterArguments, model: nn.Module) -> None:
    """Check that every name in a list of targets is that of a linear: the adapter would ignore a misspelt one.

    A single pattern is not checked here, as the adapter refuses one that matches nothing.

    Raises:
        ConfigError: names those that match nothing, and the linears that there are.
    """
    parts = parts_of(model)
    names = targets_of(adapter, parts)
    listed = target_names(names)
    if len(listed) == 1 and ".*" in listed[0]:
        return
    linears = linears_of(parts, model)
    missing = [name for name in listed if not any(linear.endswith(f".{name}") for linear in linears)]
    if missing:
        known = ", ".join(sorted({name.rpartition(".")[2] for name in linears}))
        raise ConfigError(
            f"lora_target_modules is {names!r}, and the language model has no linear named {', '.join(missing)}; its "
            f"linears are {known}"
        )


def adapter_config(
    adapter: AdapterArguments,
    parts: Parts,
    *,
    datasets: Sequence[str],
    centroids: str | None,
    cluster_shape: tuple[int, int] | None = None,
) -> MocleConfig:
    """The one `MocleConfig` of an adapter kind; the training code does not know which it runs.

    Args:
        adapter: the recipe's adapter keys.
        parts: of the base model.
        datasets: the names that the dataset router chooses from.
        centroids: the cluster model folder that the cluster embedding starts from.
        cluster_shape: (K, D), where the cluster model is not at hand (a dry run); None reads it from `centroids`.
    """
    return MocleConfig(
        task_type="CAUSAL_LM",
        target_modules=target_pattern(parts, targets_of(adapter, parts)),
        modules_to_save=list(parts.connector),
        parameters_to_save=list(parts.parameters) or None,
        r=adapter.lora_r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        **_routing_options(adapter, datasets, centroids, cluster_shape),
    )


def _routing_options(
    adapter: AdapterArguments, datasets: Sequence[str], centroids: str | None, cluster_shape: tuple[int, int] | None
) -> dict:
    if adapter.adapter == "lora":
        return {"router": "none", "num_experts": 1, "universal_expert": False, "top_k": 1}
    options: dict[str, Any] = {
        "num_experts": adapter.num_experts,
        "universal_expert": adapter.adapter == "mocle",
        "top_k": adapter.top_k,
        "temperature": adapter.gate_temperature,
        "gate_noise_std": adapter.gate_noise_std,
        "gate_mode": adapter.gate_mode,
        "gates": adapter.gates,
        "gate_init": adapter.gate_init,
        "train_cluster_embedding": adapter.train_cluster_embedding,
    }
    if adapter.adapter == "dataset":
        groups = None if adapter.dataset_groups is None else group_ids(adapter.dataset_groups, datasets)
        return options | {"router": "dataset", "num_clusters": len(datasets), "dataset_groups": groups}
    if adapter.adapter in LEARNED_ROUTERS:
        return options | {"router": adapter.adapter, **{key: getattr(adapter, key) for key in LEARNED_OPTIONS}}
    num_clusters, cluster_dim = cluster_shape or (None, None)
    return options | {
        "router": "cluster",
        "centroids": centroids,
        "num_clusters": num_clusters,
        "cluster_dim": cluster_dim,
    }


def freeze_all_but_projector(model: nn.Module) -> None:
    """Stage 1: only the projector is trained."""
    trained = connector_parameters(parts_of(model), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Number of values: all, trainable, and trainable of the adapter's experts, of its router, of the projector."""
    counts = {"all": 0, "trainable": 0, "experts": 0, "router": 0, "projector": 0}
    for name, parameter in model.named_parameters():
        size = prod(whole_shape(parameter))
        counts["all"] += size
        if parameter.requires_grad:
            counts["trainable"] += size
            counts[group_of(name)] += size
    return counts
