"""Checks, before anything is injected, that the target modules exist and can be adapted."""

from __future__ import annotations

from collections.abc import Callable

from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers
from torch import nn

from llava_mocle.adapter.config import MocleConfig
from llava_mocle.errors import ConfigError

# Modules whose first dimension is an image, not a sample, in transformers' vision-language models.
VISION_PARTS = frozenset({"vision_tower", "vision_model", "vision_encoder", "visual", "image_encoder"})


def find_targets(model: nn.Module, config: MocleConfig, matches: Callable[[MocleConfig, str], object]) -> list[str]:
    """Names of the modules to adapt: each an `nn.Linear` that sees one row per sample, and at least one.

    Args:
        model: the base model; may carry adapters already.
        config: `target_modules="all-linear"` is replaced by the names it stands for, as in PEFT.
        matches: PEFT's own test of a module name against the configuration.

    Returns:
        their names in the order of the gates. A saved adapter has its order in `config.sites`.

    Raises:
        ConfigError: a target cannot be adapted, nothing matches, or the sites are not those that were saved.
    """
    if not config.target_modules:
        raise ConfigError("target_modules is not set; name the linears to adapt, e.g. ['up_proj', 'down_proj'].")
    _maybe_include_all_linear_layers(config, model)
    wrapped: tuple[str, ...] = ()
    linears: set[str] = set()
    found: list[str] = []
    for name, module in model.named_modules():
        if wrapped and name.startswith(wrapped):
            continue
        if isinstance(module, BaseTunerLayer):
            wrapped = (*wrapped, f"{name}.")
        linear = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if isinstance(linear, nn.Linear):
            linears.add(name.rpartition(".")[2])
        if name and matches(config, name):
            found.append(name)
            _check_target(name, linear, config)
    if not found:
        raise no_match(config, linears)
    if config.sites is None:
        return found
    if set(config.sites) != set(found):
        odd = sorted(set(config.sites).symmetric_difference(found))
        raise ConfigError(
            f"this adapter was made for {len(config.sites)} sites and this model has {len(found)}; they differ in "
            f"{odd[:5]}. Load it on the model it was made for, or use a new MocleConfig."
        )
    return list(config.sites)


def no_match(config: MocleConfig, linears: set[str]) -> ConfigError:
    """The error for target modules that match nothing (or nothing that is not excluded)."""
    known = ", ".join(sorted(name for name in linears if not name.isdigit())[:20])
    targets = sorted(config.target_modules) if isinstance(config.target_modules, set) else config.target_modules
    limits = "".join(
        f", {name}={getattr(config, name)!r}"
        for name in ("exclude_modules", "layers_to_transform", "layers_pattern")
        if getattr(config, name) is not None
    )
    return ConfigError(
        f"target_modules={targets!r}{limits} matches no module of this model. Its linear modules are named: {known}."
    )


def _check_target(name: str, linear: nn.Module, config: MocleConfig) -> None:
    if not isinstance(linear, nn.Linear):
        raise ConfigError(
            f"target module {name!r} is a {type(linear).__name__}; only nn.Linear modules can be adapted. "
            "Make target_modules more precise."
        )
    parts = VISION_PARTS.intersection(name.split("."))
    if parts and config.router != "none":
        raise ConfigError(
            f"target module {name!r} lies in the {min(parts)}, whose batch is images, not samples, so samples' "
            "clusters cannot route it. Use a regular expression that names the language model, e.g. "
            r"target_modules='.*language_model.*\.(q_proj|v_proj)'."
        )
