"""Which base a checkpoint was trained on, by content: a folder may be replaced, or another be found under its name.

An identity is of what stays frozen: the configuration, and of each tensor its name, shape, dtype and a hash of samples.
The projector is not in it, as it is trained and saved with every checkpoint. It depends neither on the folder's place,
nor on how the weights are divided into files, nor on the dtype that they are loaded in.
"""

import hashlib
import json
import logging
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from llava_mocle.adapter.config import BASE_RECORD
from llava_mocle.errors import CheckpointError
from llava_mocle.io.jsonl import read_json
from llava_mocle.io.samples import sample_places
from llava_mocle.model.folders import is_original, weight_files
from llava_mocle.model.original import DERIVED_SUFFIXES, original_tower
from llava_mocle.model.weights import read_weights

logger = logging.getLogger(__name__)

# Of a tensor up to 64 KiB all is hashed; of a larger one eight places of 4 KiB. That is 15 MB of a 7B model.
_WHOLE = 64 * 1024
_CHUNK = 4 * 1024
_PLACES = 8
_DIGEST = 16
_TOWER = "vision_tower"
_REMEDY = (
    "give that one (--base FOLDER; base=... in Python), or go on with this one (--allow-other-base; "
    "allow_other_base=True in Python)"
)
# Fields of config.json that say where or with what a folder was written, or how it is run, but not what it computes.
_NO_MATTER = {
    "_name_or_path", "architectures", "attn_implementation", "_attn_implementation", "_attn_implementation_autoset",
    "dtype", "torch_dtype", "mm_vision_tower", "transformers_version", "use_cache",
}  # fmt: skip
# How the libraries that write LLaVA folders name the same weights -> the name here; the first that fits wins.
_NAMES = (
    ("model.vision_tower.vision_tower.vision_model.", "vision_tower."),
    ("vision_tower.vision_model.", "vision_tower."),
    ("model.vision_tower.", "vision_tower."),
    ("model.language_model.", "language_model."),
    ("language_model.model.", "language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.layers.", "language_model.layers."),
    ("model.embed_tokens.", "language_model.embed_tokens."),
    ("model.norm.", "language_model.norm."),
)
_PROJECTOR = ("mm_projector.", "multi_modal_projector.")
# What a CLIP or SigLIP folder holds besides its vision tower.
_TEXT_HALF = ("text_model.", "text_projection.", "visual_projection.", "logit_scale", "logit_bias")
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class BaseIdentity:
    """The identity of a base.

    Attributes:
        folder: where it was when this was made; for messages.
        config: what its config.json says; an original folder's has its vision tower's under `vision_tower`.
        tensors: name -> dtype, shape and digest, such as "F16 4096x11008 5f3a09c177b0e1d2".
    """

    folder: str
    config: Mapping[str, Any]
    tensors: Mapping[str, str]

    def to_json(self) -> str:
        """The text of `base_fingerprint.json`."""
        return json.dumps({"format": 1, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"


def read_identity(folder: Path) -> BaseIdentity | None:
    """The identity of the base that a checkpoint was trained on; None if it says nothing of it.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / BASE_RECORD
    if not path.is_file():
        return None
    found = read_json(path)
    if not isinstance(found.get("config"), dict) or not isinstance(found.get("tensors"), dict):
        raise CheckpointError(f"{path}: expected the fields config and tensors, each an object; the folder is damaged.")
    return BaseIdentity(str(found.get("folder")), found["config"], found["tensors"])


def identify(folder: Path, vision_tower: str | Path | None = None) -> BaseIdentity:
    """The identity of a base: a LLaVA folder of transformers', or an original one with its vision tower.

    Args:
        folder: the base.
        vision_tower: of an original folder, in place of the one that its config names.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    settings = read_json(folder / "config.json")
    config = _what_matters(settings)
    tensors: dict[str, str] = {}
    if is_original(folder):
        tensors |= _tensors(weight_files(folder), _base_name)
        tower = original_tower(folder, vision_tower)
        tower_settings = read_json(tower / "config.json")
        config[_TOWER] = _what_matters(tower_settings.get("vision_config") or tower_settings)
        if not any(name.startswith(f"{_TOWER}.") for name in tensors):
            tensors |= _tensors(_chosen_files(tower), _tower_name)
    else:
        tensors |= _tensors(_chosen_files(folder), _base_name)
    if settings.get("tie_word_embeddings") or (settings.get("text_config") or {}).get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)  # the embedding again, which some writers leave out
    return BaseIdentity(str(folder.resolve()), config, dict(sorted(tensors.items())))


def difference(then: BaseIdentity, now: BaseIdentity) -> str | None:
    """What makes two bases differ, in words; None if they are the same."""
    found = [_config_difference(then.config, now.config), *_tensor_differences(then.tensors, now.tensors)]
    return "; ".join(part for part in found if part) or None


def refuse_other_base(
    folder: Path, now: Callable[[], BaseIdentity], *, allow: bool = False, remedy: str = _REMEDY
) -> None:
    """Refuse a base that is not the one that a checkpoint was trained on. A checkpoint that names none is let by.

    Args:
        folder: the checkpoint.
        now: gives the identity of the base in use.
        allow: warn, and go on.
        remedy: what to do, for the message.

    Raises:
        CheckpointError: names both folders, and what differs.
    """
    then = read_identity(folder)
    if then is None:
        return
    found = now()
    differs = difference(then, found)
    if differs is None:
        return
    message = f"{folder}: was trained on another base than {found.folder}: {differs}. Its base was in {then.folder}"
    if not allow:
        raise CheckpointError(f"{message}; {remedy}")
    logger.warning("%s; going on with the other one, as allow_other_base is set", message)


def _config_difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    fields = dict(_unequal(then, now))
    if fields:
        # Another release of transformers may have written the same with more or fewer fields.
        fields = dict(_unequal(_filled_in(then), _filled_in(now)))
    if not fields:
        return None
    shown = ", ".join(f"{name} {before!r} then, {after!r} now" for name, (before, after) in list(fields.items())[:3])
    return f"config.json differs in {shown}" + (f" and {len(fields) - 3} more" if len(fields) > 3 else "")


def _unequal(then: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    for key in sorted({*then, *now}):
        before, after = then.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _unequal(before, after, f"{place}{key}.")
        elif before != after:
            yield f"{place}{key}", (before, after)


def _filled_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the defaults of this release of transformers, where it knows the model."""
    values = {key: value for key, value in config.items() if key != _TOWER}
    try:
        filled = AutoConfig.for_model(**values).to_dict()
    except (ValueError, TypeError, KeyError, AttributeError):
        return dict(config)
    return _what_matters(filled) | {key: value for key, value in config.items() if key == _TOWER}


def _tensor_differences(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    missing, more = sorted({*then} - {*now}), sorted({*now} - {*then})
    if missing:
        yield f"it lacks {_some(missing)}"
    if more:
        yield f"it has {_some(more)} besides"
    forms, weights = [], []
    for name in sorted({*then} & {*now}):
        (form, _, digest), (form_now, _, digest_now) = then[name].rpartition(" "), now[name].rpartition(" ")
        if form != form_now:
            forms.append(f"{name} ({form} then, {form_now} now)")
        elif digest != digest_now:
            weights.append(name)
    if forms:
        yield f"other shapes or dtypes: {_some(forms)}"
    if weights:
        yield f"other weights in {_some(weights)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more tensors" if len(names) > 2 else "")


def _what_matters(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _what_matters(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _NO_MATTER and value is not None
    }


def _chosen_files(folder: Path) -> list[Path]:
    """The weight files that transformers reads: one, or those of an index; other files may lie beside them."""
    for single in ("model.safetensors", "pytorch_model.bin"):
        if (folder / single).is_file():
            return [folder / single]
        index = folder / f"{single}.index.json"
        if index.is_file():
            return sorted(folder / name for name in set(read_json(index).get("weight_map", {}).values()))
    return weight_files(folder)


def _base_name(name: str) -> str | None:
    """A tensor's name in an identity; None for what is trained, or computed anew by every model."""
    if name.endswith(DERIVED_SUFFIXES) or any(part in name for part in _PROJECTOR):
        return None
    for theirs, ours in _NAMES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _tower_name(name: str) -> str | None:
    if name.endswith(DERIVED_SUFFIXES) or name.startswith(_TEXT_HALF):
        return None
    return f"{_TOWER}.{name.removeprefix('vision_model.')}"


def _tensors(files: list[Path], name_of: Callable[[str], str | None]) -> dict[str, str]:
    found = {}
    for file in files:
        read = _safetensors if file.suffix == ".safetensors" else _pickled
        for name, text in read(file, name_of):
            found[name] = text
    return found


def _safetensors(file: Path, name_of: Callable[[str], str | None]) -> Iterator[tuple[str, str]]:
    """(name, description) of each tensor. Only the header and the samples are read."""
    try:
        with open(file, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
            for theirs, entry in header.items():
                name = name_of(theirs) if theirs != "__metadata__" else None
                if name is not None:
                    begin, end = entry["data_offsets"]

                    def read(offset: int, size: int, start: int = 8 + length + begin) -> bytes:
                        stream.seek(start + offset)
                        return stream.read(size)

                    yield name, _describe(entry["dtype"], entry["shape"], end - begin, read)
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: cannot be read as weights ({type(error).__name__}: {error}).") from error


def _pickled(file: Path, name_of: Callable[[str], str | None]) -> Iterator[tuple[str, str]]:
    """The same of torch's own files, which are mapped, not read whole."""
    for theirs, tensor in read_weights(file).items():
        name = name_of(theirs)
        if name is not None and torch.is_tensor(tensor):
            values = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()

            def read(offset: int, size: int, values: Any = values) -> bytes:
                return values[offset : offset + size].tobytes()

            dtype = _DTYPES.get(tensor.dtype, str(tensor.dtype))
            yield name, _describe(dtype, tensor.shape, prod(tensor.shape) * tensor.element_size(), read)


def _describe(dtype: str, shape: Any, size: int, read: Callable[[int, int], bytes]) -> str:
    digest = hashlib.sha256()
    places = [(0, size)] if size <= _WHOLE else sample_places(size, _CHUNK, _PLACES)
    for offset, length in places:
        digest.update(read(offset, length))
    return f"{dtype} {'x'.join(map(str, shape)) or 'scalar'} {digest.hexdigest()[:_DIGEST]}"
