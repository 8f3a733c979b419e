"""Optimizer groups: experts, projector, and gates with the cluster embedding, each with its own learning rate."""

import re
from typing import Any

from torch import nn

from llava_mocle.model.gathering import whole_shape
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments

# Anchored on the adapter's own names: a language model's `mlp.gate_proj` is no gate of ours.
_EXPERTS = re.compile(r"(^|\.)mocle_experts\.")
_ROUTER = re.compile(r"(^|\.)mocle_(router|gate|cluster_embedding)")


def group_of(name: str) -> str:
    """The group of a trained parameter, from its qualified name.

    Returns:
        `router` (gates and cluster embedding), `experts`, or `projector`: whatever is trained beside the adapter.
    """
    if _ROUTER.search(name):
        return "router"
    return "experts" if _EXPERTS.search(name) else "projector"


def parameter_groups(model: nn.Module, args: MocleTrainingArguments) -> list[dict[str, Any]]:
    """Split trainable parameters into optimizer groups.

    Every group has a `name` (kept by torch in the optimizer's state), its `lr` and the run's weight decay, which
    biases and other vectors (a norm's weight) do not get. Groups without parameters are left out.
    """
    rates = {
        "experts": args.learning_rate,
        "projector": args.learning_rate if args.mm_projector_lr is None else args.mm_projector_lr,
        "router": args.learning_rate if args.gate_learning_rate is None else args.gate_learning_rate,
    }
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_bias = name.endswith("bias") or len(whole_shape(parameter)) < 2
            groups.setdefault((group_of(name), is_bias), []).append(parameter)
    return [
        {
            "name": f"{kind}_bias" if is_bias else kind,
            "params": parameters,
            "lr": rates[kind],
            "weight_decay": 0.0 if is_bias else args.weight_decay,
        }
        for (kind, is_bias), parameters in groups.items()
    ]
