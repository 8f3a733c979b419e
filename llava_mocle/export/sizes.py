"""How much a bundle takes on the disk and in memory, before anything is written."""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from llava_mocle.errors import ConfigError
from llava_mocle.io.jsonl import read_json
from llava_mocle.model.folders import weight_files
from llava_mocle.model.placement import parse_dtype

_GIB = 2**30
# Room for tokenizers, cluster model and sentence encoder.
_BESIDES = 0.2 * _GIB


def saved_dtype(folder: Path) -> torch.dtype:
    """The dtype that a whole model's config.json names; float32 where it names none."""
    values = read_json(folder / "config.json")
    for part in (values, values.get("text_config") or {}):
        if name := part.get("dtype") or part.get("torch_dtype"):
            return parse_dtype(name)
    return torch.float32


def computed_in(folder: Path, dtype: torch.dtype) -> torch.dtype:
    """The dtype that a whole model is loaded and checked in: float32 where half of the free memory holds it.

    Args:
        folder: the whole model's.
        dtype: of the bundle, else.
    """
    stored = sum(file.stat().st_size for file in weight_files(folder))
    in_float32 = stored * 4 // saved_dtype(folder).itemsize
    return torch.float32 if in_float32 * 2 <= available_memory() else dtype


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may still take without swapping: of the machine, and of its control groups.

    A container or a job of SLURM is killed where it takes more than its group may, however much the machine has.

    Args:
        root: where /proc and /sys are.
    """
    meminfo = root / "proc/meminfo"
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    for line in meminfo.read_text().splitlines() if meminfo.is_file() else []:
        if line.startswith("MemAvailable:"):
            found = int(line.split()[1]) * 1024
    return min([found, *_left_in_groups(root)])


def _left_in_groups(root: Path) -> Iterator[int]:
    """What is left to each control group (version 2) that this process is in, from the inmost to the outmost."""
    own, top = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    lines = own.read_text().splitlines() if own.is_file() else []
    names = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    for group in (folder for name in names for folder in ((top / name), *(top / name).parents)):
        limit, use = group / "memory.max", group / "memory.stat"
        if limit.is_file() and use.is_file() and (most := limit.read_text().strip()) != "max":
            taken = dict(line.split() for line in use.read_text().splitlines())
            yield int(most) - int(taken["anon"])  # what it has of files can be dropped


def adapters_bytes(config: Any, shapes: Iterable[tuple[int, int]], dtype: torch.dtype, rank: int | None) -> int:
    """How much one adapter takes.

    Args:
        config: the `MocleConfig`.
        shapes: (out, in) of every linear that it has weights for.
        rank: the largest; None: as it is.
    """
    own = config.r * (config.top_k + int(config.universal_expert))
    return min(own, rank or own) * sum(sum(shape) for shape in shapes) * dtype.itemsize


def refuse_full_disk(output: str | os.PathLike[str], needed: int, what: str) -> None:
    """Raise where a disk has no room.

    Args:
        output: the folder that will be made.
        needed: bytes of the weights.
        what: what they are, for the message.

    Raises:
        ConfigError: says how much is needed and free.
    """
    place = Path(os.path.abspath(output))
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, int(needed + _BESIDES)
    if needed > free:
        raise ConfigError(
            f"{output}: {what} take {needed / _GIB:.1f} GiB, and {place} has {free / _GIB:.1f} GiB left: choose "
            "another disk, fewer clusters (--clusters), a smaller --rank, or --dtype bfloat16"
        )


def folder_bytes(folder: Path) -> int:
    """The size of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
