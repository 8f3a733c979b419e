"""A cluster model folder on disk: config.json, centroids.safetensors, examples.jsonl. Written whole or not at all."""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llava_mocle.clustering.cluster_config import ClusterConfig, Example
from llava_mocle.clustering.instruction import check_texts
from llava_mocle.errors import ClusterModelError, DataError
from llava_mocle.io.files import make_readable
from llava_mocle.io.folders import folder_aside, is_new_or_empty
from llava_mocle.io.jsonl import parse_jsonl, write_jsonl

CONFIG_FILE = "config.json"
CENTROIDS_FILE = "centroids.safetensors"
EXAMPLES_FILE = "examples.jsonl"
ASSIGNMENTS_FILE = "assignments.parquet"
# The held-out rows' table. Small, so checkpoints carry it: held-out rows can then be scored without the encoder.
HELD_OUT_FILE = "held_out.parquet"
# What a clustering owns in its folder: replaced together, because each belongs to the others.
_OWN_FILES = (CONFIG_FILE, CENTROIDS_FILE, EXAMPLES_FILE, ASSIGNMENTS_FILE, HELD_OUT_FILE)


def is_cluster_model(folder: Path) -> bool:
    """Return whether the folder holds a cluster model's config.json and centroids."""
    return (folder / CONFIG_FILE).is_file() and (folder / CENTROIDS_FILE).is_file()


def write_folder(
    folder: Path,
    config: ClusterConfig,
    tensors: Mapping[str, np.ndarray],
    examples: Sequence[Sequence[Example]],
    overwrite: bool,
    held_out: pa.Table | None = None,
) -> None:
    """Write the files beside `folder` and rename them into place.

    Raises:
        ClusterModelError: the folder is not empty and `overwrite` is off, or it holds something else.
    """
    from safetensors.numpy import save_file

    check_writable(folder, overwrite)
    with folder_aside(folder) as aside:
        (aside / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
        contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        save_file(contiguous, aside / CENTROIDS_FILE)
        write_jsonl(aside / EXAMPLES_FILE, [dataclasses.asdict(item) for group in examples for item in group])
        if held_out is not None:
            pq.write_table(held_out, aside / HELD_OUT_FILE)
        make_readable(aside)
        _swap(aside, folder)


def check_writable(folder: Path, overwrite: bool, wanted: str = "") -> None:
    """Raise ClusterModelError where `write_folder` would refuse; call it before the work, not after.

    Args:
        wanted: a sentence on what was to be written, for the message.
    """
    if is_new_or_empty(folder):
        return
    if not folder.is_dir():
        raise ClusterModelError(f"{folder}: is a file; a cluster model needs a folder: name another output")
    if not is_cluster_model(folder):
        raise ClusterModelError(f"{folder}: holds files that are no cluster model; name another output, or empty it")
    if not overwrite:
        raise ClusterModelError(
            f"{folder}: already holds another cluster model ({_what_it_is(folder)}); nothing was changed. {wanted}"
            "Name another output, or allow replacing it with --overwrite"
        )


def _what_it_is(folder: Path) -> str:
    try:
        config = ClusterConfig.read(folder / CONFIG_FILE)
    except ClusterModelError as error:
        return str(error)
    return (
        f"K = {config.num_clusters}, seed {config.seed}, {config.n_init} restarts, turns {config.instruction_turns}, "
        f"{config.fit.get('num_instructions', 0):,.0f} instructions ({config.fit.get('num_distinct', 0):,} distinct) "
        f"and encoder {config.encoder}"
    )


def read_tensors(path: Path, config: ClusterConfig) -> dict[str, np.ndarray]:
    """Read and check centroids (K, D), counts (K,) and probe (P, D).

    Raises:
        ClusterModelError: missing, damaged, or of another shape or dtype than config.json says.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    remedy = "copy the whole cluster model folder again, or run `llava-mocle cluster` again"
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise ClusterModelError(f"{path}: no such file; {remedy}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise ClusterModelError(f"{path}: damaged ({error}); {remedy}") from error
    expected = {"centroids": (config.num_clusters, config.dim), "counts": (config.num_clusters,)}
    for name, shape in expected.items():
        if name not in tensors:
            raise ClusterModelError(f"{path}: tensor {name!r} is missing; {remedy}")
        if tensors[name].shape != shape:
            raise ClusterModelError(
                f"{path}: tensor {name!r} has shape {tensors[name].shape}, config.json says {shape}; {remedy}"
            )
    if tensors["centroids"].dtype != np.float32 or not np.isfinite(tensors["centroids"]).all():
        raise ClusterModelError(
            f"{path}: tensor 'centroids' is {tensors['centroids'].dtype}, expected finite float32 numbers; {remedy}"
        )
    probe = tensors.get("probe")
    if probe is None or probe.ndim != 2 or probe.shape[1] != config.dim:
        raise ClusterModelError(f"{path}: tensor 'probe' is missing or not (P, {config.dim}); {remedy}")
    return tensors


def read_examples(path: Path, num_clusters: int) -> list[list[Example]]:
    """Read examples.jsonl: for each cluster, the instructions nearest its centroid, the nearest first.

    Raises:
        ClusterModelError: missing, or a line that is not an example.
    """
    remedy = "run `llava-mocle cluster` again"
    examples: list[list[Example]] = [[] for _ in range(num_clusters)]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterModelError(f"{path}: not readable ({error}); {remedy}") from error
    for place, record in parse_jsonl(text, path, remedy, ClusterModelError):
        try:
            item = Example(**record)
            check_texts([item.text])
            if not all(isinstance(number, (int, float)) for number in (item.count, item.distance)):
                raise TypeError("count and distance are numbers")
            if item.cluster < 0:
                raise IndexError("negative cluster")
            examples[item.cluster].append(item)
        except (AttributeError, TypeError, IndexError, DataError) as error:
            raise ClusterModelError(
                f"{place}: not an example of {num_clusters} clusters ({error}); {remedy}"
            ) from error
    return examples


def _swap(aside: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(aside, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent)) / folder.name
    os.rename(folder, old)
    try:
        os.rename(aside, folder)
    except OSError:
        os.rename(old, folder)
        raise
    for entry in old.iterdir():
        if entry.name not in _OWN_FILES:
            os.rename(entry, folder / entry.name)
    shutil.rmtree(old.parent, ignore_errors=True)
