"""An adapter's folder out of weights: checked against the base that they are for, without loading it, and written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_mocle.errors import CheckpointError

# Before the base model's names in an adapter's file.
PREFIX = "base_model.model."


def expected_weights(base: Path, model_class: Any, config: Any) -> dict[str, Tensor]:
    """What an adapter of this configuration saves on a base, on the meta device.

    Args:
        base: a folder in transformers' layout; only its config.json is read.
        model_class: what the base must be.
        config: of the adapter. A `MocleConfig` gets its `sites`.

    Raises:
        CheckpointError: the base is something else.
        ConfigError: the adapter's targets match nothing there.
    """
    from peft import get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig

    reason = f"no {model_class.__name__} in transformers' layout"
    try:
        settings = AutoConfig.from_pretrained(base)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{base}: is {reason} ({type(error).__name__}: {error}).") from error
    if type(settings) is not model_class.config_class:
        raise CheckpointError(f"{base}/config.json: model_type is {settings.model_type!r}, so this is {reason}.")
    with torch.device("meta"):
        adapted = get_peft_model(model_class(settings), config)
        return get_peft_model_state_dict(adapted, save_embedding_layers=False)


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
