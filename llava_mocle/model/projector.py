"""The projector on its own: what stage 1 trains and saves."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from llava_mocle.errors import CheckpointError
from llava_mocle.io.files import write_text, written_aside
from llava_mocle.io.paths import looked_for
from llava_mocle.model.folders import LEGACY_PROJECTOR_WEIGHTS, PROJECTOR_CONFIG, PROJECTOR_WEIGHTS
from llava_mocle.model.gathering import gathered, whole_shape
from llava_mocle.model.weights import read_weights

MODULE_NAME = "multi_modal_projector"

# Positions in the original code's nn.Sequential -> transformers' names.
_LEGACY_LAYERS = {"0": "linear_1", "2": "linear_2"}


def get_projector(model: nn.Module) -> nn.Module:
    """The projector of a LLaVA model, also inside a `PeftModel` that trains a copy of it.

    Raises:
        CheckpointError: the model has none.
    """
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] == MODULE_NAME:
            copies = getattr(module, "modules_to_save", None)
            return copies[module.active_adapter] if copies is not None and len(copies) else module
    raise CheckpointError(f"{type(model).__name__}: has no {MODULE_NAME}; expected a LLaVA model.")


def save_projector(
    model: nn.Module,
    folder: str | Path,
    base: str | Path,
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a stage-1 checkpoint's weights: `mm_projector.safetensors` and `mm_projector_config.json`.

    Args:
        model: the LLaVA model.
        folder: created where missing; the two files are replaced.
        base: the base folder the projector belongs to.
        state_dict: the model's gathered weights, where its own are partitioned (ZeRO-3).
    """
    folder = Path(folder)
    if state_dict is None:
        weights = get_projector(model).state_dict()
    else:
        marker = f"{MODULE_NAME}."
        weights = {name.split(marker, 1)[1]: value for name, value in state_dict.items() if marker in name}
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with written_aside(folder / PROJECTOR_WEIGHTS) as aside:
        save_file(tensors, aside, metadata={"format": "pt"})
    config = {"base_model_name_or_path": str(base), "shapes": {n: list(t.shape) for n, t in sorted(tensors.items())}}
    write_text(folder / PROJECTOR_CONFIG, json.dumps(config, indent=2) + "\n")


def load_projector(model: nn.Module, path: str | Path) -> None:
    """Load projector weights into a model, every one of them or none.

    Args:
        model: the LLaVA model; its dtype and device stay.
        path: `mm_projector.safetensors`, the original code's `mm_projector.bin` (read with `weights_only=True`), or a
            folder that holds one of them.

    Raises:
        CheckpointError: no such file, or its names or shapes are not this projector's.
    """
    file = projector_file(Path(path))
    weights = {_plain_name(name): value for name, value in read_weights(file).items()}
    target = dict(get_projector(model).named_parameters())
    expected = {name: whole_shape(value) for name, value in target.items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if expected != found:
        raise CheckpointError(
            f"{file}: is not this model's projector. Found {found}, expected {expected}; "
            "it belongs to another language model or vision tower."
        )
    with torch.no_grad(), gathered(list(target.values()), modified=True):
        for name, parameter in target.items():
            parameter.copy_(weights[name])


def projector_file(path: Path) -> Path:
    """The file of a projector: the path itself, or the one in that folder.

    Raises:
        CheckpointError: there is none.
    """
    if os.path.isfile(path):  # unlike `Path.is_file`, it takes any text
        return path
    candidates = [path / PROJECTOR_WEIGHTS, path / LEGACY_PROJECTOR_WEIGHTS]
    for candidate in candidates:
        if os.path.isfile(candidate):
            return candidate
    raise CheckpointError(
        f"{path}: no projector there{looked_for(path)}; expected {PROJECTOR_WEIGHTS} or {LEGACY_PROJECTOR_WEIGHTS}."
    )


def _plain_name(name: str) -> str:
    """`model.mm_projector.0.weight`, `0.weight`, `multi_modal_projector.linear_1.weight` -> `linear_1.weight`."""
    layer, _, kind = name.rpartition(".")
    layer = layer.rpartition(".")[2]
    return f"{_LEGACY_LAYERS.get(layer, layer)}.{kind}"
