"""A new run that starts from a trained adapter: a plain LoRA, or an adapter of a run of ours.

From a LoRA, every expert of a linear, the universal one too, starts as the LoRA's A and B of that linear. From an
adapter of the same shape, all that it trained is taken, gates and cluster embedding too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn

from llava_mocle.adapter import MocleConfig
from llava_mocle.adapter.centroids import load_centroids
from llava_mocle.adapter.in_place import is_saved
from llava_mocle.adapter.options import LEARNED_ROUTERS
from llava_mocle.data.template_names import template_name
from llava_mocle.errors import ClusterModelError, ConfigError
from llava_mocle.model.folders import CLUSTERS_FOLDER, read_recipe
from llava_mocle.model.gathering import gathered, whole_shape
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.training.setup.clusters import needs_clusters
from llava_mocle.training.setup.warm_start_folder import (
    EXPERTS_B,
    WarmStart,
    is_beside,
    is_gate,
    lora_name,
    read_warm_start,
)

# What two adapters of one shape have in common -> the recipe keys that decide it.
_SHAPE = {
    "router": "adapter", "universal_expert": "adapter", "num_experts": "num_experts", "num_clusters": "cluster_model",
    "cluster_dim": "cluster_model", "gate_mode": "gate_mode", "gate_sharing": "gate_sharing", "gate_bias": "gate_bias",
    "gates": "gates", "dataset_groups": "dataset_groups",
}  # fmt: skip


def find_warm_start(recipe: Recipe) -> WarmStart:
    """What the recipe's `warm_start` names, as far as it can be checked without a model.

    Raises:
        CheckpointError, ConfigError: as `read_warm_start`; its rank is another one, or two keys name a projector.
    """
    start = read_warm_start(Path(cast(str, recipe.model.warm_start)))
    if start.config.r != recipe.adapter.lora_r:
        raise ConfigError(
            f"warm_start {start.folder}: its rank is {start.config.r}, and lora_r is {recipe.adapter.lora_r}; set "
            f"lora_r to {start.config.r}"
        )
    projector = recipe.model.pretrain_mm_mlp_adapter
    if start.beside and projector:
        raise ConfigError(
            f"pretrain_mm_mlp_adapter is {projector!r}, but warm_start {start.folder} has a trained projector too "
            f"({start.beside[0]}); leave pretrain_mm_mlp_adapter out (as a flag: --pretrain_mm_mlp_adapter none)"
        )
    return start


def check_warm_start(start: WarmStart, model: PeftModel) -> None:
    """Check that every weight has a place in the model to train, and every adapted linear has its weights.

    Args:
        model: the adapted model; it may be on the meta device.

    Raises:
        ConfigError: names what does not fit, and what to set.
    """
    target = cast(MocleConfig, model.peft_config["default"])
    if not start.is_lora:
        _check_same_shape(start, target)
    expected = _expected_shapes(start, _saved(model))
    for odd, what in (
        (start.shapes.keys() - expected.keys(), "has no place in the model to train"),
        (expected.keys() - start.shapes.keys(), "is not in the folder"),
    ):
        if odd:
            more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
            raise ConfigError(f"warm_start {start.folder}: {min(odd)}{more} {what}; {_remedy(start, target)}")
    for name, shape in expected.items():
        if start.shapes[name] != shape:
            raise ConfigError(
                f"warm_start {start.folder}: {name} has shape {start.shapes[name]}, and the model to train takes "
                f"{shape}; give an adapter of this base"
            )


def start_from(start: WarmStart, model: PeftModel) -> str:
    """Put the weights into a new model, before the first step. All processes call it together.

    B is multiplied by the quotient of the two scalings, so that the output stays.

    Returns:
        a line that says what was taken.

    Raises:
        ConfigError: as `check_warm_start`.
        CheckpointError: the weights cannot be read.
    """
    check_warm_start(start, model)
    saved, weights = _saved(model), start.weights()
    factor = start.scaling / cast(MocleConfig, model.peft_config["default"]).scaling
    with torch.no_grad(), gathered(list(saved.values()), modified=True):
        for name, parameter in saved.items():
            value = weights.get(lora_name(name) if start.is_lora else name)
            if value is None:
                continue  # gates, or a projector that stays as the base has it
            if name.endswith(EXPERTS_B) and factor != 1:
                value = value.double() * factor
            parameter.copy_(value)  # a LoRA's (r, in) or (out, r) goes into every slot
    kind = "a LoRA" if start.is_lora else "an adapter with its gates"
    scaled = "" if factor == 1 else f", B times {factor:g}"
    beside = ", with what was trained beside it" if start.beside else ""
    return f"starts from {start.folder}: {kind} of rank {start.config.r} on {len(start.sites)} linears{scaled}{beside}"


def doubts(start: WarmStart, model: PeftModel, recipe: Recipe) -> list[str]:
    """Warnings: what differs from the run that trained the adapter. All processes call it together.

    Args:
        recipe: with all that it leaves to its base.
    """
    return [
        text for text in (_weakened(start, model), _other_clusters(start, recipe), *_other_data(start, recipe)) if text
    ]


def _weakened(start: WarmStart, model: PeftModel) -> str | None:
    """Whether the first output is less than the LoRA's.

    Experts that are all alike give one of them, times the sum of their weights. With the universal expert these are
    G and 1 - G, or G^2 and 1 - G under gate_mode "released".
    """
    tuner, config = cast(Any, model.base_model), cast(MocleConfig, model.peft_config["default"])
    exact = config.universal_expert and config.gate_mode == "paper"
    if not start.is_lora or config.router == "none" or exact:
        return None
    if config.router in LEARNED_ROUTERS:
        if config.expert_weight != "probability":
            return None
        return (
            f"warm_start {start.folder}: at the start an adapted linear adds what the LoRA adds times the probability "
            "of the chosen experts, which is less than 1; expert_weight one or renormalized adds the same"
        )
    with torch.no_grad(), gathered(list(tuner.mocle_router.parameters())):
        gates = tuner.clean_gates().float().cpu().topk(config.top_k, dim=-1).values
    total = (gates**2 + 1 - gates if config.universal_expert else gates).sum(dim=-1)
    reason = "gate_mode released squares the gate" if config.universal_expert else "there is no universal expert"
    return (
        f"warm_start {start.folder}: at the start an adapted linear does not add what the LoRA adds, but "
        f"{total.min():.2f} to {total.max():.2f} of it (mean {total.mean():.2f}), as {reason}; with adapter mocle and "
        "gate_mode paper it adds the same"
    )


def _other_clusters(start: WarmStart, recipe: Recipe) -> str | None:
    """Whether the gates belong to other clusters, of which there are as many."""
    theirs = start.folder / CLUSTERS_FOLDER
    if start.is_lora or not needs_clusters(recipe) or not theirs.is_dir():
        return None
    try:
        same = torch.equal(load_centroids(theirs), load_centroids(cast(str, recipe.cluster.cluster_model)))
    except ClusterModelError:
        same = False
    return (
        None
        if same
        else (
            f"warm_start {start.folder}: its gates were trained for other clusters than those of "
            f"{recipe.cluster.cluster_model}, so samples start with experts that were trained for others"
        )
    )


def _other_data(start: WarmStart, recipe: Recipe) -> list[str]:
    """What the model saw before, and does not see now."""
    before = read_recipe(start.folder)
    pairs = {
        "image_aspect_ratio": (before.get("image_aspect_ratio"), recipe.data.image_aspect_ratio),
        "version": tuple(name and template_name(name) for name in (before.get("version"), recipe.data.version)),
    }
    return [
        f"{key} is {now!r}, and warm_start {start.folder} was trained with {then!r}"
        for key, (then, now) in pairs.items()
        if then and then != now
    ]


def _saved(model: PeftModel) -> dict[str, nn.Parameter]:
    """What the run's checkpoints hold, by the names that it has there."""
    return {
        name.replace(".modules_to_save.default.", ".").replace(".default.", "."): parameter
        for name, parameter in model.named_parameters()
        if is_saved(name, parameter)
    }


def _expected_shapes(start: WarmStart, saved: Mapping[str, nn.Parameter]) -> dict[str, tuple[int, ...]]:
    """What the folder should hold for this model: name -> shape."""
    expected = {}
    for ours, parameter in saved.items():
        name, shape = lora_name(ours) if start.is_lora else ours, whole_shape(parameter)
        # Without a projector in it, the adapter was trained on that of the base.
        left_out = (is_beside(ours) and not start.beside) or (start.is_lora and is_gate(ours))
        if not left_out:
            expected[name] = shape if name == ours else shape[1:]
    return expected


def _check_same_shape(start: WarmStart, target: MocleConfig) -> None:
    for field, key in _SHAPE.items():
        then, now = getattr(start.config, field), getattr(target, field)
        if then != now:
            raise ConfigError(
                f"warm_start {start.folder}: its {field} is {then!r}, and this run's is {now!r} ({key} decides it); "
                "an adapter with gates starts one of the same shape only, and a plain LoRA starts any"
            )


def _remedy(start: WarmStart, target: MocleConfig) -> str:
    """What to set where the adapted linears are not the same."""
    theirs, ours = (sorted({site.rpartition(".")[2] for site in sites}) for sites in (start.sites, target.sites or []))
    if theirs == ours:
        return "give an adapter of this base"
    return (
        f"it adapts {', '.join(theirs)}, and this run {', '.join(ours)}: set lora_target_modules to {','.join(theirs)}"
    )
