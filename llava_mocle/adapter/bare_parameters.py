"""Bare parameters of the base model: found by name, trained in place, and kept apart from `modules_to_save`."""

from __future__ import annotations

from collections.abc import Iterator

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from llava_mocle.adapter.config import MocleConfig
from llava_mocle.errors import ConfigError

_MOST_LISTED = 20


def find_parameters(model: nn.Module, config: MocleConfig) -> dict[str, nn.Parameter]:
    """The parameters that `config.parameters_to_save` names, by their full names in `model`.

    A parameter is bare if its module holds other modules too, so that `modules_to_save` could name it only together
    with them: InstructBLIP's `query_tokens`, LLaVA-NeXT's `image_newline`.

    Args:
        model: the base model; may carry adapters already.

    Raises:
        ConfigError: a name matches no bare parameter. The message lists those that there are.
    """
    bare = dict(_bare_parameters(model))
    found: dict[str, nn.Parameter] = {}
    for name in config.parameters_to_save or []:
        matches = {full: parameter for full, parameter in bare.items() if _is_end_of(name, full)}
        if not matches:
            raise ConfigError(f"parameters_to_save names {name!r}, which is {_what_it_is(name, model, list(bare))}")
        found |= matches
    return found


def check_modules_to_save(model: nn.Module, config: MocleConfig) -> None:
    """Refuse a parameter in `modules_to_save`, which PEFT would pass by, or one that is trained twice.

    Args:
        model: the base model; may carry adapters already.

    Raises:
        ConfigError: a name is that of a bare parameter, or a module holds a parameter of `parameters_to_save`.
    """
    modules = [name for name, _ in model.named_modules() if name]
    bare = [name for name, _ in _bare_parameters(model)]
    in_place = list(find_parameters(model, config))
    for name in config.modules_to_save or []:
        taken = [module for module in modules if module.endswith(name)]  # as PEFT matches, in mid-word too
        if not taken and any(_is_end_of(name, parameter) for parameter in bare):
            raise ConfigError(
                f"modules_to_save names {name!r}, which is a parameter and no module, so it would be neither trained "
                f"nor saved: name it in parameters_to_save=[{name!r}] instead."
            )
        for parameter in in_place:
            if any(parameter.startswith(f"{module}.") for module in taken):
                raise ConfigError(
                    f"parameters_to_save names {parameter!r}, which lies in {name!r} of modules_to_save and is trained "
                    "and saved with it: leave it out of parameters_to_save."
                )


def _bare_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Each with its full name. The parts that adapters and `modules_to_save` wrap are left out."""
    wrapped: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if wrapped and name.startswith(wrapped):
            continue
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            wrapped = (*wrapped, f"{name}.")
        elif next(module.children(), None) is not None:
            for own, parameter in module.named_parameters(recurse=False):
                yield f"{name}.{own}" if name else own, parameter


def _is_end_of(name: str, full: str) -> bool:
    return full == name or full.endswith(f".{name}")


def _what_it_is(name: str, model: nn.Module, bare: list[str]) -> str:
    """The rest of the sentence about a name that is no bare parameter."""
    if any(_is_end_of(name, module) for module, _ in model.named_modules() if module):
        return f"a module: name it in modules_to_save=[{name!r}] instead."
    owner = name.rpartition(".")[0]
    if owner and any(_is_end_of(name, parameter) for parameter, _ in model.named_parameters()):
        return f"a parameter of the module {owner!r}: name the module in modules_to_save=[{owner!r}] instead."
    listed = ", ".join(bare[:_MOST_LISTED]) or "none"
    more = f" and {len(bare) - _MOST_LISTED} more" if len(bare) > _MOST_LISTED else ""
    return f"no bare parameter of this model. It has {listed}{more}."
