"""`ModelShape` read off a model, best one on the meta device."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.layer import MocleLinear
from llava_mocle.errors import ConfigError
from llava_mocle.families.family import Family
from llava_mocle.families.parts import Parts
from llava_mocle.families.registry import family_of
from llava_mocle.planning.shapes import Counts, Experts, ModelShape, Site, Tower
from llava_mocle.training.setup.adapter import count_parameters

# As transformers fills in `stage3_param_persistence_threshold: auto`.
_PERSISTENT_HIDDENS = 10


def measure_shape(model: nn.Module) -> ModelShape:
    """The sizes of a vision-language model, with or without an adapter around it.

    Raises:
        ConfigError: its language model is not built like Llama's (`hidden_size`, `intermediate_size`, heads, layers).
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    family = family_of(base.config)
    parts = family.parts(base.config)
    text = base.config.get_text_config()
    for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"):
        if not isinstance(getattr(text, key, None), int):
            raise ConfigError(
                f"the model's text_config has no whole number {key!r}; only Llama-like models are planned"
            )
    sites, linear, rows = _layers(base, parts, text.num_hidden_layers)
    connector_linears = [
        module for part in _trained_connector(base, parts) for module in part.modules() if isinstance(module, nn.Linear)
    ]
    return ModelShape(
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        heads=text.num_attention_heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocab=text.vocab_size,
        layer_sites=sites,
        layer_linear=linear,
        layer_rows=rows,
        experts=_experts(model),
        projector_in=connector_linears[0].in_features,
        projector_linear=sum(module.weight.numel() for module in connector_linears),
        tower=_tower(base, family, parts),
        counts=_counts(model, parts),
        small=sum(p.numel() for p in model.parameters() if p.numel() <= _PERSISTENT_HIDDENS * text.hidden_size),
    )


def _layers(base: nn.Module, parts: Parts, layers: int) -> tuple[tuple[tuple[Site, ...], ...], int, int]:
    """The sites of each layer, and of all frozen linears in the layers the parameters and the output features."""
    layer = re.compile(rf"{re.escape(parts.language_model)}\.(?:.*\.)?layers\.(\d+)\.(.*)")
    sites: list[list[Site]] = [[] for _ in range(layers)]
    linear = rows = 0
    for name, module in base.named_modules():
        match = layer.search(name)
        if not match:
            continue
        if isinstance(module, MocleLinear):
            site = Site(name.rsplit(".", 1)[-1], module.in_features, module.out_features)
            sites[int(match[1])].append(site)
        elif isinstance(module, nn.Linear):
            linear += module.weight.numel()
            rows += module.out_features
    return tuple(map(tuple, sites)), linear, rows


def _experts(model: nn.Module) -> Experts | None:
    configs: dict[str, MocleConfig] = getattr(model, "peft_config", {})
    for config in configs.values():
        return Experts(
            rank=config.r,
            slots=config.num_slots,
            top_k=config.top_k,
            universal=config.universal_expert,
            routed=config.router != "none",
            dropout=config.lora_dropout > 0,
        )
    return None


def _trained_connector(base: nn.Module, parts: Parts) -> list[nn.Module]:
    """The modules of the connector, in the copies that are trained where there are any."""
    found: list[nn.Module] = []
    for part in parts.connector:
        for name, module in base.named_modules():
            if f".{name}".endswith(f".{part}"):
                copies: Any = getattr(module, "modules_to_save", None)
                found.append(module if copies is None else next(iter(copies.values())))
    return found


def _counts(model: nn.Module, parts: Parts) -> Counts:
    trained = count_parameters(model)
    frozen = {"tower": 0, "connector": 0, "language_model": 0}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            frozen[_part_of(name, parts)] += parameter.numel()
    return Counts(
        language_model=frozen["language_model"],
        vision_tower=frozen["tower"],
        frozen_projector=frozen["connector"],
        experts=trained["experts"],
        router=trained["router"],
        projector=trained["projector"],
    )


def _part_of(name: str, parts: Parts) -> str:
    if any(f".{part}." in f".{name}" for part in (*parts.connector, *parts.parameters)):
        return "connector"  # it may lie inside the tower
    return "tower" if f"{parts.tower}." in name else "language_model"


def _tower(base: Any, family: type[Family], parts: Parts) -> Tower:
    tower = next(module for name, module in base.named_modules() if f".{name}".endswith(f".{parts.tower}"))
    image = family.typical_image(base.config)
    flops = _forward_flops(tower, image.pixels)
    attention = sum(count for name, count in flops.items() if "bmm" in name or "attention" in name)
    linear = sum(count for name, count in flops.items() if name.endswith(("addmm", ".mm")))
    return Tower(
        image_tokens=image.tokens,
        linear_flops=linear,
        attention_flops=attention,
        other_flops=sum(flops.values()) - linear - attention,
    )


def _forward_flops(tower: Any, pixels: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Operations of one image's forward, by ATen operator."""
    parameter = next(tower.parameters())
    # An input that requires a gradient: a tower that treats its features as frozen may cast by device, and the meta
    # device has no autocast.
    inputs = {
        name: value.to(parameter.device, parameter.dtype).requires_grad_() if value.is_floating_point() else value
        for name, value in pixels.items()
    }
    # The CPU's fused attention is not counted; taken apart into products it is, on every device.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        tower(**inputs)
    return {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
