"""The seal of a checkpoint: a list of its files with sizes and hashes, written last, by which a whole one is told."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llava_mocle.io.files import written_aside

SEAL_FILE = "checkpoint.json"
_FORMAT = 1
_THREADS = 8


def write_seal(folder: str | Path, **facts: Any) -> None:
    """Hash every file of `folder`, flush it to the disk, and write the seal; `facts` go along.

    Raises:
        OSError: a file cannot be read, or the disk is full.
    """
    folder = Path(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if name != SEAL_FILE]
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda name: _digest(folder / name, to_disk=True), names)
        files = {
            name: {"bytes": (folder / name).stat().st_size, "sha256": digest}
            for name, digest in zip(names, digests, strict=True)
        }
    with written_aside(folder / SEAL_FILE) as aside:
        aside.write_text(json.dumps({"format": _FORMAT, **facts, "files": files}, indent=1), encoding="utf-8")
        flush(aside)
    flush(folder)


def flush(path: Path) -> None:
    """Have a file, or a folder's entries, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_seal(folder: str | Path) -> dict[str, Any]:
    """The seal's facts and files; empty where there is none or it cannot be read."""
    try:
        seal = json.loads((Path(folder) / SEAL_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return seal if isinstance(seal, dict) and isinstance(seal.get("files"), dict) else {}


def flaw(folder: str | Path) -> str | None:
    """What keeps a checkpoint from being whole, in words; None if every file is as it was written.

    Files that were added later do no harm.
    """
    folder = Path(folder)
    seal = read_seal(folder)
    if not seal:
        return f"it has no readable {SEAL_FILE}, which is written last"
    for name, expected in seal["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, expected {expected['bytes']}"
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda name: _digest(folder / name), seal["files"])
        for (name, expected), digest in zip(seal["files"].items(), digests, strict=True):
            if digest != expected["sha256"]:
                return f"{name} is not what was written: its sha256 differs"
    return None


def _digest(path: Path, to_disk: bool = False) -> str:
    with open(path, "rb") as file:
        if to_disk:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
