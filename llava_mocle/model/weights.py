"""Weights from files: a whole model or an error, because half a model is worse than none."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from llava_mocle.errors import CheckpointError, UserError


def load_whole(
    model_class: Any, folder: Path, *, refuse_unexpected: bool = False, ignore: tuple[str, ...] = (), **options: Any
) -> Any:
    """`model_class.from_pretrained`, with an error where transformers only warns.

    Args:
        folder: holds the weights, unless the options have a `state_dict`.
        refuse_unexpected: refuse weights that the model has no place for.
        ignore: ends of the names of such weights that are allowed.
        options: more keywords of `from_pretrained`.

    Raises:
        CheckpointError: unreadable, or a weight is missing, of another shape, or unexpected.
    """
    source = None if "state_dict" in options else folder
    try:
        model, report = model_class.from_pretrained(source, output_loading_info=True, **options)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded ({type(error).__name__}: {error}).") from error
    unexpected = [name for name in report["unexpected_keys"] if not name.endswith(ignore)] if refuse_unexpected else []
    # Of weights of another shape, transformers reports the two shapes too.
    mismatched = [entry[0] for entry in report["mismatched_keys"]]
    for kind, names in (("missing", report["missing_keys"]), ("mismatched", mismatched), ("unexpected", unexpected)):
        if names:
            raise CheckpointError(
                f"{folder}: {len(names)} weight(s) are {kind}, for example {', '.join(sorted(names)[:3])}; the folder "
                "is incomplete, or its config.json is of another model."
            )
    return model


def read_weights(file: Path, error_class: type[UserError] = CheckpointError) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, or of a .bin or .pth file that holds names and tensors and nothing else.

    Raises:
        UserError: of `error_class`, where the file cannot be read as weights.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # Mapped, so that the weights of a 7B model are not held twice; files from before torch 1.6 cannot be.
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:
        raise error_class(f"{file}: cannot be read as weights ({type(error).__name__}: {error}).") from error
    if not isinstance(weights, dict):
        raise error_class(f"{file}: holds a {type(weights).__name__}, expected names and tensors.")
    return weights
