"""LAVIS' names of InstructBLIP's weights -> transformers' names, and what a LAVIS file holds beside its weights."""

from pathlib import Path
from typing import Any

import torch

from llava_mocle.errors import CheckpointError
from llava_mocle.model.original import DERIVED_SUFFIXES
from llava_mocle.model.weights import read_weights

_PREFIXES = (
    ("Qformer.bert.", "qformer."),
    ("llm_proj.", "language_projection."),
    ("ln_vision.", "vision_model.post_layernorm."),
)
# Buffers that every model computes anew.
_DERIVED = (*DERIVED_SUFFIXES, "position_ids", "rotary_emb.inv_freq")
# What wraps a state dict in a training script's file, and in a model that was wrapped for several GPUs.
_STATES = ("model", "state_dict")
_WRAPPER = "module."


def read_lavis(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights in a file of LAVIS, and the `model` part of the configuration that it may keep.

    Args:
        file: what LAVIS' runner saves ("model", "config", "optimizer", ...), or a state dict alone. It is read with
            `weights_only=True`, so nothing in it is executed.

    Raises:
        CheckpointError: it cannot be read so, or holds no weights.
    """
    content: dict[str, Any] = read_weights(file)
    state = next((content[key] for key in _STATES if isinstance(content.get(key), dict)), content)
    state = {name.removeprefix(_WRAPPER): value for name, value in state.items()}
    wrong = [name for name, value in state.items() if not torch.is_tensor(value)]
    if wrong or not state:
        raise CheckpointError(
            f"{file}: holds no weights under 'model'; expected names and tensors, found {wrong[:3] or 'nothing'}."
        )
    config = content.get("config")
    settings = config.get("model") if isinstance(config, dict) else None
    return state, settings if isinstance(settings, dict) else {}


def is_derived(name: str) -> bool:
    """Whether a weight is a buffer that holds no learnt value."""
    return name.endswith(_DERIVED)


def bridge_name(name: str) -> str | None:
    """transformers' name of a weight between tower and language model; None for any other.

    These are the Q-Former, its query tokens, the language projection, and the layer norm behind the vision tower.
    """
    if name == "query_tokens":
        return name
    for theirs, ours in _PREFIXES:
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            name = name.replace("qformer.embeddings.LayerNorm.", "qformer.embeddings.layernorm.")
            return name.replace("attention.self.", "attention.attention.")
    return None
