"""What a model is made of, by the names of its modules; and which of them are adapted or trained."""

import re
from dataclasses import dataclass

from torch import nn

from llava_mocle.adapter import MlpNames
from llava_mocle.errors import ConfigError

# As in Llama, and in every other language model that is named in `model_types`.
LLAMA_MLP = MlpNames()


@dataclass(frozen=True)
class Parts:
    """What a model is made of, as names of its modules and parameters.

    Attributes:
        language_model: a part of the name of every module of the language model, and of no other module.
        tower: the vision tower, likewise.
        connector: the modules between them, which are trained beside the experts.
        parameters: bare parameters that are trained like them.
        targets: the linears of the language model that are adapted where a recipe does not say.
        mlp: the names in the language model's gated MLPs, W_down (act(W_gate x) * W_up x); None: its MLPs are others.
    """

    language_model: str
    tower: str
    connector: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("up_proj", "down_proj")
    mlp: MlpNames | None = LLAMA_MLP


def target_pattern(parts: Parts, names: str) -> str:
    """A regular expression for linears of these names (comma-separated) in the language model and nowhere else.

    A name that is already a pattern (holds `.*`) is taken as it is.

    Raises:
        ConfigError: no names.
    """
    listed = target_names(names)
    if len(listed) == 1 and ".*" in listed[0]:
        return listed[0]
    return rf".*{re.escape(parts.language_model)}\..*\.({'|'.join(map(re.escape, listed))})"


def target_names(names: str) -> list[str]:
    """The names of `lora_target_modules`.

    Raises:
        ConfigError: there is none.
    """
    parts = [part.strip() for part in names.split(",") if part.strip()]
    if not parts:
        raise ConfigError("lora_target_modules is empty; give names such as up_proj,down_proj")
    return parts


def linears_of(parts: Parts, model: nn.Module) -> list[str]:
    """The names of the language model's linears."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in names if f"{parts.language_model}." in name]


def connector_parameters(parts: Parts, model: nn.Module) -> set[str]:
    """The names of the parameters of the connector, bare ones included."""
    return {
        name
        for name, _ in model.named_parameters()
        if any(f".{module}." in f".{name}" for module in parts.connector)
        or any(f".{name}".endswith(f".{parameter}") for parameter in parts.parameters)
    }
