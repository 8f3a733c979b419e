"""A manifest: the files of a checkpoint, or of a run's result, with sizes and hashes. It is written last.

So a whole checkpoint is recognized by its manifest, and a finished run by that of its result.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llava_mocle.adapter.card import CARD_FILE
from llava_mocle.io.files import written_aside

MANIFEST_FILE = "checkpoint.json"
# The manifest of a finished run's result, in `output_dir`.
FINISHED_FILE = "finished.json"
_FORMAT = 1
_THREADS = 8


def write_manifest(
    folder: str | Path, *, manifest_name: str = MANIFEST_FILE, files: Iterable[str] | None = None, **facts: Any
) -> None:
    """Hash the files of `folder`, flush each to the disk, and write the manifest.

    Args:
        folder: a checkpoint or a result, complete but for its manifest.
        manifest_name: the manifest's file name.
        files: names of the files to list; default: all in the folder.
        facts: what else is to be known about the checkpoint; kept beside the list of files.

    Raises:
        OSError: a file cannot be read, or the disk is full.
    """
    folder = Path(folder)
    if files is None:
        files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = sorted(name for name in files if name not in (manifest_name, CARD_FILE))  # people may edit the card
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda name: _digest(folder / name, to_disk=True), names)
        listed = {
            name: {"bytes": (folder / name).stat().st_size, "sha256": digest}
            for name, digest in zip(names, digests, strict=True)
        }
    with written_aside(folder / manifest_name) as aside:
        aside.write_text(json.dumps({"format": _FORMAT, **facts, "files": listed}, indent=1), encoding="utf-8")
        flush(aside)
    flush(folder)


def flush(path: Path) -> None:
    """Make sure that a file, or the list of files in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_manifest(folder: str | Path, manifest_name: str = MANIFEST_FILE) -> dict[str, Any]:
    """The facts, and the files under `files`; empty if there is no manifest or it cannot be read."""
    try:
        manifest = json.loads((Path(folder) / manifest_name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else {}


def checkpoint_facts(folder: str | Path) -> dict[str, Any]:
    """What is known about a checkpoint, or about the result in an `output_dir`; empty if it has no manifest."""
    return read_manifest(folder) or read_manifest(folder, FINISHED_FILE)


def flaw(folder: str | Path, manifest_name: str = MANIFEST_FILE) -> str | None:
    """Why a checkpoint or a result is not whole, in words; None if every file is as it was written.

    Files that were added later are not looked at.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, manifest_name)
    if not manifest:
        return f"it has no readable {manifest_name}, which is written last"
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, expected {expected['bytes']}"
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda name: _digest(folder / name), manifest["files"])
        for (name, expected), digest in zip(manifest["files"].items(), digests, strict=True):
            if digest != expected["sha256"]:
                return f"{name} is not what was written: its sha256 differs"
    return None


def _digest(path: Path, to_disk: bool = False) -> str:
    with open(path, "rb") as file:
        if to_disk:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
