"""`ModelShape` read off a model, best one on the meta device."""

import re
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.layer import MocleLinear
from llava_mocle.errors import ConfigError
from llava_mocle.model.image_tokens import image_tokens_per_image
from llava_mocle.planning.shapes import Counts, Experts, ModelShape, Site, Tower
from llava_mocle.training.setup.adapter import PROJECTOR, count_parameters

# As transformers fills in `stage3_param_persistence_threshold: auto`.
_PERSISTENT_HIDDENS = 10
_LAYER = re.compile(r"language_model\.(?:.*\.)?layers\.(\d+)\.(.*)")


def measure_shape(model: nn.Module) -> ModelShape:
    """The sizes of a LLaVA model, with or without an adapter around it.

    Raises:
        ConfigError: its language model is not built like Llama's (`hidden_size`, `intermediate_size`, heads, layers).
    """
    llava = model.get_base_model() if hasattr(model, "get_base_model") else model
    text = llava.config.get_text_config()
    for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"):
        if not isinstance(getattr(text, key, None), int):
            raise ConfigError(
                f"the model's text_config has no whole number {key!r}; only Llama-like models are planned"
            )
    sites, linear, rows = _layers(llava, text.num_hidden_layers)
    projector = _trained_projector(llava)
    projector_linears = [module for module in projector.modules() if isinstance(module, nn.Linear)]
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
        projector_in=projector_linears[0].in_features,
        projector_linear=sum(module.weight.numel() for module in projector_linears),
        tower=_tower(llava),
        counts=_counts(model),
        small=sum(p.numel() for p in model.parameters() if p.numel() <= _PERSISTENT_HIDDENS * text.hidden_size),
    )


def _layers(llava: nn.Module, layers: int) -> tuple[tuple[tuple[Site, ...], ...], int, int]:
    """The sites of each layer, and of all frozen linears in the layers the parameters and the output features."""
    sites: list[list[Site]] = [[] for _ in range(layers)]
    linear = rows = 0
    for name, module in llava.named_modules():
        match = _LAYER.search(name)
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


def _trained_projector(llava: Any) -> nn.Module:
    projector = llava.model.multi_modal_projector
    copies = getattr(projector, "modules_to_save", None)
    return projector if copies is None else next(iter(copies.values()))


def _counts(model: nn.Module) -> Counts:
    trained = count_parameters(model)
    frozen = {"vision_tower": 0, PROJECTOR: 0, "language_model": 0}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            part = next((part for part in ("vision_tower", PROJECTOR) if f"{part}." in name), "language_model")
            frozen[part] += parameter.numel()
    return Counts(
        language_model=frozen["language_model"],
        vision_tower=frozen["vision_tower"],
        frozen_projector=frozen[PROJECTOR],
        experts=trained["experts"],
        router=trained["router"],
        projector=trained["projector"],
    )


def _tower(llava: Any) -> Tower:
    flops = _forward_flops(llava.model.vision_tower)
    attention = sum(count for name, count in flops.items() if "bmm" in name or "attention" in name)
    linear = sum(count for name, count in flops.items() if name.endswith(("addmm", ".mm")))
    return Tower(
        image_tokens=image_tokens_per_image(llava.config),
        linear_flops=linear,
        attention_flops=attention,
        other_flops=sum(flops.values()) - linear - attention,
    )


def _forward_flops(tower: Any) -> dict[str, int]:
    """Operations of one image's forward, by ATen operator."""
    parameter = next(tower.parameters())
    size = tower.config.image_size
    # An input that requires a gradient: a tower that treats its features as frozen may cast by device, and the meta
    # device has no autocast.
    image = torch.zeros(1, 3, size, size, device=parameter.device, dtype=parameter.dtype, requires_grad=True)
    # The CPU's fused attention is not counted; taken apart into products it is, on every device.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        tower(image)
    return {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
