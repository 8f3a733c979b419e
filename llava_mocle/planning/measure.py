"""`ModelShape` read off a model, best one on the meta device."""

import re
from typing import Any

from torch import nn

from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.gated_mlp import GatedMlp
from llava_mocle.adapter.layer import MocleLinear
from llava_mocle.errors import ConfigError
from llava_mocle.families.parts import Parts, connector_parameters
from llava_mocle.families.registry import family_of
from llava_mocle.model.supervised_head import why_not
from llava_mocle.planning.image_cost import measure_image
from llava_mocle.planning.shapes import Counts, Experts, ModelShape, Site
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
    tower, connector = measure_image(base, family, parts)
    return ModelShape(
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        heads=text.num_attention_heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocab=text.vocab_size,
        layer_sites=sites,
        gated_mlps=_gated_mlps(base, parts, text.num_hidden_layers),
        layer_linear=linear,
        layer_rows=rows,
        experts=_experts(model),
        tower=tower,
        connector=connector,
        counts=_counts(model, parts),
        usual_length=min(family.usual_length, getattr(text, "max_position_embeddings", None) or family.usual_length),
        small=sum(p.numel() for p in model.parameters() if p.numel() <= _PERSISTENT_HIDDENS * text.hidden_size),
        supervised_head=why_not(base) is None,
    )


def _layers(base: nn.Module, parts: Parts, layers: int) -> tuple[tuple[tuple[Site, ...], ...], int, int]:
    """The sites of each layer, and of all frozen linears in the layers the parameters and the output features."""
    layer = _inside_a_layer(parts)
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


def _inside_a_layer(parts: Parts) -> re.Pattern[str]:
    """What finds, in a module's name, the number of the language model's layer that it stands in."""
    return re.compile(rf"{re.escape(parts.language_model)}\.(?:.*\.)?layers\.(\d+)\.")


def _gated_mlps(base: nn.Module, parts: Parts, layers: int) -> tuple[bool, ...]:
    layer = _inside_a_layer(parts)
    matches = [layer.search(name) for name, module in base.named_modules() if isinstance(module, GatedMlp)]
    found = {int(match[1]) for match in matches if match}
    return tuple(index in found for index in range(layers))


def _experts(model: nn.Module) -> Experts | None:
    configs: dict[str, MocleConfig] = getattr(model, "peft_config", {})
    tuner: Any = getattr(model, "base_model", None)
    for config in configs.values():
        return Experts(
            rank=config.r,
            slots=config.num_slots,
            top_k=config.top_k,
            universal=config.universal_expert,
            routed=config.router != "none",
            dropout=config.lora_dropout > 0,
            fused=tuner.fused and config.router != "token",
            by_token=config.router == "token",
        )
    return None


def _counts(model: nn.Module, parts: Parts) -> Counts:
    trained = count_parameters(model)
    connector = connector_parameters(parts, model)
    frozen = {"tower": 0, "connector": 0, "language_model": 0}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            inside = "tower" if f".{parts.tower}." in f".{name}" else "language_model"
            # The connector may lie inside the tower.
            frozen["connector" if name in connector else inside] += parameter.numel()
    return Counts(
        language_model=frozen["language_model"],
        vision_tower=frozen["tower"],
        frozen_projector=frozen["connector"],
        experts=trained["experts"],
        router=trained["router"],
        projector=trained["projector"],
    )
