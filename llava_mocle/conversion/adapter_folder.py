"""An adapter's folder out of weights: checked against the base that they are for, without loading it, and written."""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_mocle.errors import CheckpointError

# Before the base model's names in an adapter's file.
PREFIX = "base_model.model."


def read_config(base: Path, model_class: Any) -> Any:
    """The configuration of a base in transformers' layout.

    Raises:
        CheckpointError: the base is something else than a `model_class`.
    """
    from transformers import AutoConfig

    reason = f"no {model_class.__name__} in transformers' layout"
    try:
        settings = AutoConfig.from_pretrained(base)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{base}: is {reason} ({type(error).__name__}: {error}).") from error
    if type(settings) is not model_class.config_class:
        raise CheckpointError(f"{base}/config.json: model_type is {settings.model_type!r}, so this is {reason}.")
    return settings


def expected_weights(model_class: Any, settings: Any, config: Any) -> tuple[dict[str, Tensor], list[str]]:
    """What an adapter saves on a base of this class and configuration, on the meta device, and its sites.

    Args:
        config: of the adapter; it is not changed.

    Returns:
        name -> tensor, and the names of the adapted modules, in the order of the gates of a `MocleConfig`.

    Raises:
        ConfigError: the adapter's targets match nothing there.
    """
    from peft import get_peft_model, get_peft_model_state_dict

    own = copy.deepcopy(config)
    own.base_model_name_or_path = None  # PEFT fills it in
    with torch.device("meta"):
        adapted = get_peft_model(model_class(settings), own)
        weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    sites = getattr(own, "sites", None)
    return weights, sites or list(adapted.targeted_module_names)


def base_name(base: str | Path) -> str:
    """How an adapter names its base: a folder's whole path, or the name of a model on the hub."""
    return os.path.abspath(base) if os.path.isdir(base) else str(base)


def difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """How two sets of weights differ in names or shapes, in words; None if they are alike."""
    for odd, what in ((expected.keys() - found.keys(), "lacks"), (found.keys() - expected.keys(), "has besides")):
        if odd:
            return f"it {what} {len(odd)} weight(s), for example {', '.join(sorted(odd)[:3])}"
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            return f"{name} has shape {tuple(found[name].shape)}, and the base takes {tuple(tensor.shape)}"
    return None


def write_adapter(folder: Path, config: Any, weights: Mapping[str, Tensor]) -> None:
    """Write adapter_config.json and adapter_model.safetensors."""
    from peft.utils import SAFETENSORS_WEIGHTS_NAME
    from safetensors.torch import save_file

    # Cloned, because safetensors writes neither views nor tensors that share memory.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}
    save_file(tensors, str(folder / SAFETENSORS_WEIGHTS_NAME), metadata={"format": "pt"})
    config.save_pretrained(str(folder))
