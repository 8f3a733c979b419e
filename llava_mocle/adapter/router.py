"""Routers: from what is known of a sample to the experts of every site. Here: cluster, dataset and none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.gating import gate_probabilities
from llava_mocle.adapter.routing import Gates
from llava_mocle.errors import ClusterModelError, ConfigError, RoutingError

CENTROIDS_FILE = "centroids.safetensors"


class Router(nn.Module, ABC):
    """Owns the parameters that route. They are used only inside its forward, as ZeRO-3 and FSDP require."""

    #: The keyword of `forward` and `generate` that this router reads; None for a router that routes nothing.
    id_name: str | None = None

    @abstractmethod
    def forward(self, ids: Tensor, noisy: bool) -> Gates:
        """The gates of samples with these (checked) ids, for all sites at once."""


class NoRouter(Router):
    """Decides nothing for a sample: a plain LoRA has one expert, and the token router's gates are at the sites."""

    def forward(self, ids: Tensor, noisy: bool) -> Gates:
        raise RoutingError("routers 'none' and 'token' decide nothing for a whole sample.")


class ClusterRouter(Router):
    """Gates that see a sample only through the learnable embedding of its cluster.

    Parameters:
        gate_weight: (S, E, D), one gate per site.
        gate_bias: (S, E), only under gate_mode="released".
        cluster_embedding: (K, D) shared by all sites; (S, K, D), one per site, under gate_mode="released".
    """

    id_name = "cluster_ids"

    def __init__(self, config: MocleConfig, num_sites: int, embedding: Tensor) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.top_k = config.top_k
        self.mode = config.gate_mode
        self.noise_std = config.noise_std
        dim = embedding.shape[1]
        released = config.gate_mode == "released"
        self.gate_weight = nn.Parameter(torch.empty(num_sites, config.num_experts, dim))
        self.gate_bias = nn.Parameter(torch.empty(num_sites, config.num_experts)) if released else None
        shape = (num_sites, *embedding.shape) if released else tuple(embedding.shape)
        self.cluster_embedding = nn.Parameter(torch.empty(shape))
        self._reset(dim)
        self.set_embedding(embedding)

    @torch.no_grad()
    def _reset(self, dim: int) -> None:
        # As in nn.Linear: weight and bias uniform in +-1/sqrt(fan in).
        self.gate_weight.uniform_(-(dim**-0.5), dim**-0.5)
        if self.gate_bias is not None:
            self.gate_bias.uniform_(-(dim**-0.5), dim**-0.5)

    @torch.no_grad()
    def set_embedding(self, embedding: Tensor) -> None:
        """Overwrite the cluster embedding, at every site, with `embedding` (K, D).

        Raises:
            ConfigError: the shape is not (K, D) of this adapter.
        """
        expected = tuple(self.cluster_embedding.shape[-2:])
        if tuple(embedding.shape) != expected:
            raise ConfigError(
                f"centroids of shape {tuple(embedding.shape)} do not fit the cluster embedding (num_clusters, "
                f"cluster_dim) = {expected}; use the cluster model that this adapter was made for."
            )
        self.cluster_embedding.copy_(embedding.expand_as(self.cluster_embedding))

    def forward(self, ids: Tensor, noisy: bool) -> Gates:
        """Gates of all sites in one batched product; noise is drawn here, once.

        Args:
            ids: (B,) int64, already checked.
            noisy: add N(0, noise_std) to the logits.
        """
        # In fp32 or better, outside autocast: the choice of an expert must not depend on bf16 rounding.
        with torch.autocast(self.gate_weight.device.type, enabled=False):
            dtype = torch.promote_types(self.gate_weight.dtype, torch.float32)
            ids = ids.to(self.gate_weight.device)
            samples = self.cluster_embedding.index_select(-2, ids).to(dtype)
            # bmm, because matmul picks its kernel by requires_grad, and training and serving must agree to the bit.
            samples = samples.expand(len(self.gate_weight), -1, -1)
            clean = torch.bmm(samples, self.gate_weight.to(dtype).transpose(1, 2))  # (S, B, E)
            if self.gate_bias is not None:
                clean = clean + self.gate_bias.to(dtype).unsqueeze(1)
            logits = clean + self.noise_std * torch.randn_like(clean) if noisy and self.noise_std > 0 else clean
            # Strongest first; the kept probabilities are not renormalised.
            gate, expert = gate_probabilities(logits, self.temperature, self.mode).topk(self.top_k, dim=-1)
        return Gates(expert, gate, clean.detach())


class DatasetRouter(ClusterRouter):
    """The same gates, with the dataset's index in place of the cluster's."""

    id_name = "dataset_ids"


def build_router(config: MocleConfig, num_sites: int, embedding: Tensor | None) -> Router:
    """The router of a new adapter, its cluster embedding starting at `embedding` (see `initial_embedding`)."""
    if embedding is None:
        return NoRouter()
    kind = DatasetRouter if config.router == "dataset" else ClusterRouter
    return kind(config, num_sites, embedding)


def initial_embedding(config: MocleConfig) -> Tensor | None:
    """(K, D): the centroids, or random unit vectors without them; None for a router without ids.

    Reads `config.centroids`, and fills in num_clusters and cluster_dim from them.

    Raises:
        ConfigError: the centroids contradict num_clusters or cluster_dim.
        ClusterModelError: the centroids cannot be read.
    """
    if not config.has_gates_of_ids:
        return None
    if config.centroids is None:
        shape = (cast(int, config.num_clusters), cast(int, config.cluster_dim))
        return F.normalize(torch.randn(shape), dim=-1)
    centroids = load_centroids(config.centroids)
    for name, found in zip(("num_clusters", "cluster_dim"), centroids.shape, strict=True):
        if getattr(config, name) not in (None, found):
            raise ConfigError(
                f"{name}={getattr(config, name)} but the centroids in {config.centroids} have {found}; "
                f"drop {name} (it is read from the centroids) or use another cluster model."
            )
        setattr(config, name, found)
    return centroids


def load_centroids(path: str | Path) -> Tensor:
    """The tensor "centroids" (K, D) of a cluster model folder or a .safetensors file.

    Raises:
        ClusterModelError: there is no such file or tensor, or it is not a (K, D) matrix of finite numbers.
    """
    file = Path(path)
    if file.is_dir():
        file = file / CENTROIDS_FILE
    if not file.is_file():
        raise ClusterModelError(f"centroids={str(path)!r}: there is no file {file}; run `llava-mocle cluster` first.")
    try:
        # On the CPU even while a model is built on the meta device, because the values are checked.
        with torch.device("cpu"), safe_open(str(file), framework="pt") as tensors:
            names = list(tensors.keys())
            centroids = tensors.get_tensor("centroids") if "centroids" in names else None
    except SafetensorError as error:
        raise ClusterModelError(f"{file} is not a readable .safetensors file ({error}); make it anew.") from error
    if centroids is None:
        raise ClusterModelError(f"{file} holds {names} but no tensor 'centroids'; it is not a cluster model.")
    if centroids.ndim != 2 or 0 in centroids.shape or not centroids.isfinite().all():
        raise ClusterModelError(
            f"{file}: 'centroids' has shape {tuple(centroids.shape)}; expected a (K, D) matrix of finite numbers."
        )
    return centroids


def check_ids(name: str, ids: Any, num_clusters: int, num_samples: int | None) -> Tensor:
    """The ids of a batch as an int64 tensor (B,), or an error that says what is wrong with them.

    The range is checked here only for ids on the CPU. Reading ids on a GPU would make the CPU wait for it; their
    range is checked with `check_range` once they have travelled to the host (see `copy_to_host`).

    Args:
        name: "cluster_ids" or "dataset_ids".
        ids: a tensor or a sequence of int.
        num_clusters: ids must lie in [0, num_clusters).
        num_samples: B where it is known from the other inputs.

    Raises:
        RoutingError: missing, of a wrong dtype, shape or length, or (on the CPU) out of range.
    """
    if ids is None:
        raise RoutingError(f"{name} is missing: this adapter routes every sample; pass {name}, a LongTensor (B,).")
    if not isinstance(ids, Tensor):
        if not isinstance(ids, Sequence) or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
            raise RoutingError(f"{name} must be a LongTensor (B,), found {type(ids).__name__}: {ids!r:.80}.")
        ids = torch.tensor(ids, dtype=torch.long)
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise RoutingError(f"{name} must hold integers, found dtype {ids.dtype}; pass a LongTensor (B,).")
    if ids.ndim != 1:
        raise RoutingError(f"{name} must have one id per sample, shape (B,); found shape {tuple(ids.shape)}.")
    if num_samples is not None and len(ids) != num_samples:
        raise RoutingError(
            f"{name} has {len(ids)} ids but the batch has {num_samples} samples; pass exactly one id per sample."
        )
    if ids.device.type == "cpu":
        check_range(name, ids, num_clusters)
    return ids.to(torch.long)


def check_range(name: str, ids: Tensor, num_clusters: int) -> None:
    """Refuse ids outside [0, num_clusters).

    Args:
        ids: integers on the CPU.

    Raises:
        RoutingError: naming the first of them and the range.
    """
    outside = [i for i in ids.flatten().tolist() if not 0 <= i < num_clusters]
    if outside:
        raise RoutingError(
            f"{name} holds {outside[:5]}; expected ids in [0, {num_clusters}), the clusters this adapter was made "
            "for. Assign the samples with the adapter's own cluster model."
        )
