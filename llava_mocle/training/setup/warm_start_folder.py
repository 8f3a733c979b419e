"""The folder that a new run's adapter starts from: what kind of adapter it holds, and the names of its weights."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llava_mocle.adapter import MocleConfig
from llava_mocle.adapter.config import PEFT_TYPE
from llava_mocle.adapter.in_place import PEFT_MODEL_PREFIX
from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.io.jsonl import read_json
from llava_mocle.io.paths import looked_for, why_missing
from llava_mocle.model.folders import ADAPTER_CONFIG, ORIGINAL_LORA_EXTRAS
from llava_mocle.model.weights import read_weights

LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
EXPERTS_A, EXPERTS_B = ".mocle_experts.experts_A", ".mocle_experts.experts_B"
ROUTER = "base_model.mocle_router."
# In the name of a gate of the token router, which stands in its site.
TOKEN_GATE = ".mocle_gate."
# Fields of a LoRA that may have any value: how large it is, what it adapts, and how it was trained.
_FREE = {
    "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "exclude_modules", "modules_to_save",
    "layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size", "runtime_config", "eva_config",
    *(item.name for item in fields(PeftConfig)),
}  # fmt: skip
# Ways to make a LoRA that leave the base's weights as they are.
_INITS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class WarmStart:
    """A folder to start from. An adapter of ours with one expert and no gates is read as the LoRA that it is.

    Attributes:
        folder: what `warm_start` names.
        file: its weights.
        config: what its adapter_config.json says.
        shapes: of its weights, by name.
        stored: the same names -> those in the file.
    """

    folder: Path
    file: Path
    config: LoraConfig | MocleConfig
    shapes: Mapping[str, tuple[int, ...]]
    stored: Mapping[str, str]

    @property
    def is_lora(self) -> bool:
        """A plain LoRA, of PEFT's or of ours (`adapter: lora`)."""
        return isinstance(self.config, LoraConfig) or self.config.router == "none"

    @property
    def scaling(self) -> float:
        """What B A x is multiplied by."""
        stabilised = isinstance(self.config, LoraConfig) and self.config.use_rslora
        return self.config.lora_alpha / (self.config.r**0.5 if stabilised else self.config.r)

    @property
    def sites(self) -> list[str]:
        """Names of the adapted linears."""
        found = [name.removesuffix(end) for name in self.shapes for end in (LORA_A, EXPERTS_A) if name.endswith(end)]
        return sorted(name.removeprefix(PEFT_MODEL_PREFIX) for name in found)

    @property
    def beside(self) -> list[str]:
        """Names of what was trained beside the adapter, such as the projector's weights."""
        return sorted(name for name in self.shapes if is_beside(name))

    def weights(self) -> dict[str, Tensor]:
        """The tensors, under the names and in the shapes of `shapes`.

        Raises:
            CheckpointError: the file cannot be read.
        """
        found = read_weights(self.file)
        return {name: found[stored].reshape(self.shapes[name]) for name, stored in self.stored.items()}


def read_warm_start(folder: Path) -> WarmStart:
    """Read what a folder says of itself, without the values of its weights.

    Raises:
        CheckpointError: there is no such folder, or no whole adapter of a known kind in it.
        ConfigError: it computes something else than a plain LoRA.
    """
    config, file = _config(folder), _weight_file(folder)
    single = isinstance(config, MocleConfig) and config.router == "none"
    shapes, stored = {}, {}
    for theirs, shape in _shapes(file).items():
        name = lora_name(theirs) if single else theirs
        shapes[name] = shape if name == theirs else shape[1:]
        stored[name] = theirs
    return WarmStart(folder, file, config, shapes, stored)


def lora_name(name: str) -> str:
    """A LoRA's name of an expert's A or B; any other name as it is."""
    for ours, theirs in ((EXPERTS_A, LORA_A), (EXPERTS_B, LORA_B)):
        if name.endswith(ours):
            return name.removesuffix(ours) + theirs
    return name


def is_gate(name: str) -> bool:
    """Whether a weight belongs to gates or their cluster embedding."""
    return name.startswith(ROUTER) or TOKEN_GATE in name


def is_beside(name: str) -> bool:
    """Whether a weight belongs to something that is trained beside the adapter."""
    return not is_gate(name) and not name.endswith((EXPERTS_A, EXPERTS_B, LORA_A, LORA_B))


def _config(folder: Path) -> LoraConfig | MocleConfig:
    trouble = why_missing(folder)
    if trouble is not None:
        raise CheckpointError(f"warm_start {folder}: {trouble}{looked_for(folder)}")
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise CheckpointError(f"warm_start {folder}: has no {ADAPTER_CONFIG}; give the folder of a trained adapter")
    if (folder / ORIGINAL_LORA_EXTRAS).is_file():
        raise CheckpointError(
            f"warm_start {folder}: is a LoRA of the original LLaVA code; convert it, and start from the result: "
            f"llava-mocle convert --llava-lora {folder} --base BASE --output DIR"
        )
    settings = read_json(path)
    kinds: dict[Any, Any] = {"LORA": LoraConfig, PEFT_TYPE: MocleConfig}
    kind = settings.get("peft_type")
    if kind not in kinds:
        raise CheckpointError(f"{path}: peft_type is {kind!r}, expected {' or '.join(kinds)}")
    if kind == "LORA":
        _refuse_special(path, settings)
    try:
        return kinds[kind].from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error


def _refuse_special(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a LoRA that is not W x + scaling B A x with the base's own W, such as DoRA or PiSSA."""
    usual = LoraConfig().to_dict()
    for field, value in settings.items():
        if field == "init_lora_weights":
            fine = value in _INITS
        else:
            fine = field in _FREE or not value or value == usual.get(field)
        if not fine:
            raise ConfigError(f"warm_start: {path}: {field} is {value!r}; a run starts from plain LoRAs only")


def _weight_file(folder: Path) -> Path:
    for name in (SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME):
        if os.path.isfile(folder / name):
            return folder / name
    raise CheckpointError(
        f"warm_start {folder}: has neither {SAFETENSORS_WEIGHTS_NAME} nor {WEIGHTS_NAME}; the folder is incomplete"
    )


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a file's weights, from its header where it has one."""
    if file.suffix != ".safetensors":
        return {name: tuple(value.shape) for name, value in read_weights(file).items()}
    try:
        with safe_open(file, framework="pt") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in list(weights.keys())}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read as weights ({type(error).__name__}: {error}).") from error
