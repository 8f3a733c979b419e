"""What an adapter reads of a cluster model: its centroids, and how many samples each cluster holds."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llava_mocle.errors import ClusterModelError

CENTROIDS_FILE = "centroids.safetensors"


def load_centroids(path: str | Path) -> Tensor:
    """The tensor "centroids" (K, D) of a cluster model folder or a .safetensors file.

    Raises:
        ClusterModelError: there is no such file or tensor, or it is not a (K, D) matrix of finite numbers.
    """
    centroids, file, names = _load(path, "centroids")
    if centroids is None:
        raise ClusterModelError(f"{file} holds {names} but no tensor 'centroids'; it is not a cluster model.")
    if centroids.ndim != 2 or 0 in centroids.shape or not centroids.isfinite().all():
        raise ClusterModelError(
            f"{file}: 'centroids' has shape {tuple(centroids.shape)}; expected a (K, D) matrix of finite numbers."
        )
    return centroids


def load_counts(path: str | Path) -> Tensor | None:
    """The tensor "counts" (K,) beside the centroids: how many samples each cluster holds; None where it is not there.

    Raises:
        ClusterModelError: the file cannot be read.
    """
    return _load(path, "counts")[0]


def _load(path: str | Path, name: str) -> tuple[Tensor | None, Path, list[str]]:
    """A tensor of a cluster model, None if it is not there; its file, and the names of all tensors in that."""
    file = Path(path)
    if file.is_dir():
        file = file / CENTROIDS_FILE
    if not file.is_file():
        raise ClusterModelError(f"centroids={str(path)!r}: there is no file {file}; run `llava-mocle cluster` first.")
    try:
        # On the CPU even while a model is built on the meta device, because the values are checked.
        with torch.device("cpu"), safe_open(str(file), framework="pt") as tensors:
            names = list(tensors.keys())
            found = tensors.get_tensor(name) if name in names else None
    except SafetensorError as error:
        raise ClusterModelError(f"{file} is not a readable .safetensors file ({error}); make it anew.") from error
    return found, file, names
