"""The whole model of a bundle: its weights with the trained modules in them, written shard by shard.

Only one shard is held beside the model that is loaded: a merged cluster is computed tensor by tensor, as it is written.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from llava_mocle.adapter.collapse import Pairs
from llava_mocle.adapter.in_place import PREFIX
from llava_mocle.io.progress import Progress

# Bytes of a weight file.
SHARD_BYTES = 2 * 2**30
INDEX_FILE = "model.safetensors.index.json"
# Beginnings of the names in transformers' LLaVA -> in the files of LLaVA-HF, which all engines read.
_ENGINE_NAMES = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
# Towers whose weights have one more level in the files than in the model.
_TOWERS_WITH_A_LEVEL = ("clip_vision_model", "siglip_vision_model")
_TOWER, _LEVEL = "vision_tower.", "vision_model."


def base_weights(model: Any) -> dict[str, Tensor]:
    """Name in the base model -> tensor, with the trained copies of modules in the place of the original ones.

    The experts are left out, and so are tensors that another name has already (tied embeddings). Nothing is copied.

    Args:
        model: a `PeftModel` with one adapter.
    """
    copy = f".modules_to_save.{model.active_adapter}."
    weights: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in model.get_base_model().state_dict().items():
        if f".{PREFIX}" in name or ".original_module." in name:
            continue
        place = tensor.data_ptr(), tensor.shape
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        weights[name.replace(".base_layer.", ".").replace(copy, ".")] = tensor
    return weights


def linear_shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Name of a module -> (out, in), of all that have a weight of two dimensions."""
    return {
        name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for name, tensor in weights.items()
        if name.endswith(".weight") and tensor.ndim == 2
    }


def engine_name(name: str, tower_type: str) -> str:
    """The name of a weight in the files that engines read.

    transformers loads them too. It saves a CLIP tower's without `vision_model`, which vLLM refuses.

    Args:
        name: in transformers' LLaVA.
        tower_type: model type of the vision tower.
    """
    for ours, theirs in _ENGINE_NAMES:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    inner = name.removeprefix(_TOWER)
    if inner != name and tower_type in _TOWERS_WITH_A_LEVEL and not inner.startswith(_LEVEL):
        name = _TOWER + _LEVEL + inner
    return name


def text_name(name: str) -> str | None:
    """The name of a weight in the language model alone; None for those of tower and projector."""
    for ours, theirs in (("model.language_model.", "model."), ("lm_head.", "lm_head.")):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return None


def stored_bytes(weights: Mapping[str, Tensor], dtype: torch.dtype) -> int:
    """How much these weights take in this dtype."""
    return sum(tensor.numel() * _stored_dtype(tensor, dtype).itemsize for tensor in weights.values())


def write_weights(
    folder: Path,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    name_of: Callable[[str], str | None],
    bar: Progress,
    merged: Pairs | None = None,
    scaling: float = 1.0,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write model.safetensors, or shards with their index.

    Args:
        weights: `base_weights`.
        name_of: a weight's name in the files; None: it is left out.
        bar: is told of every tensor's bytes.
        merged: site -> A, B of a LoRA that is added to the weights: W + scaling B A, in float32 or better.
    """
    names = {theirs: name for name in weights if (theirs := name_of(name)) is not None}
    shapes = {
        theirs: torch.empty(weights[name].shape, dtype=_stored_dtype(weights[name], dtype), device="meta")
        for theirs, name in names.items()
    }
    plan = split_torch_state_dict_into_shards(shapes, max_shard_size=shard_bytes)
    for file, members in plan.filename_to_tensors.items():
        shard = {}
        for theirs in members:
            tensor = weights[names[theirs]]
            shard[theirs] = _stored(_merge(names[theirs], tensor, merged, scaling), _stored_dtype(tensor, dtype))
            bar.update(shard[theirs].nbytes)
        save_file(shard, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def written_names(folder: Path) -> Iterator[str]:
    """The names of the tensors in a folder's weight files."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            yield from opened.keys()


@torch.no_grad()
def _merge(name: str, tensor: Tensor, merged: Pairs | None, scaling: float) -> Tensor:
    pair = (merged or {}).get(name.removesuffix(".weight"))
    if pair is None or not name.endswith(".weight"):
        return tensor
    delta = scaling * (pair[1] @ pair[0])
    return tensor.to(delta.dtype) + delta.to(tensor.device)


def _stored_dtype(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() else tensor.dtype


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to("cpu", dtype).contiguous()
