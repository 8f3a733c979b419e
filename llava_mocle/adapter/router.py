"""Routers: from what is known of a sample to the experts of every site. Here: cluster, dataset and none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_mocle.adapter.centroids import load_centroids
from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.gating import gate_probabilities
from llava_mocle.adapter.mixture import CLUSTER_WEIGHTS, check_weights, mixed_probabilities
from llava_mocle.adapter.options import check_options
from llava_mocle.adapter.routing import Gates
from llava_mocle.errors import ConfigError, RoutingError


class Router(nn.Module):
    """Owns the parameters that route. They are used only inside its forward, as ZeRO-3 and FSDP require."""

    #: The keyword of `forward` and `generate` that this router reads; None for a router that routes nothing.
    id_name: str | None = None

    def train_parameters(self, trained: bool) -> None:
        """Train what the adapter trains of this router, or (False) nothing."""
        self.requires_grad_(trained)


class NoRouter(Router):
    """Decides nothing for a sample: a plain LoRA has one expert, and the token router's gates are at the sites."""

    def forward(self, *args: Any, **kwargs: Any) -> Gates:
        raise RoutingError("routers 'none' and 'token' decide nothing for a whole sample.")


class IdRouter(Router, ABC):
    """Knows a sample by an id alone.

    Args:
        groups: the group of each id, which decides in its place; None: each id for itself.
    """

    def __init__(self, groups: list[int] | None = None) -> None:
        super().__init__()
        self.register_buffer("_groups", None if groups is None else torch.tensor(groups), persistent=False)

    def rows(self, ids: Tensor) -> Tensor:
        """The row of the embedding, or the expert, of each id (...): that of its group, where there are groups."""
        return ids if self._groups is None else cast(Tensor, self._groups)[ids.to(self._groups.device)]

    @abstractmethod
    def forward(self, ids: Tensor, noisy: bool, weights: Tensor | None = None) -> Gates:
        """The gates of samples with these (checked) ids, for all sites at once; `weights` as in `ClusterRouter`."""


class ClusterRouter(IdRouter):
    """Gates that see a sample only through the learnable embedding of its cluster.

    Parameters:
        gate_weight: (S, E, D), one gate per site.
        gate_bias: (S, E), only under gate_mode="released".
        cluster_embedding: (K, D) shared by all sites; (S, K, D), one per site, under gate_mode="released".
    """

    id_name = "cluster_ids"

    def __init__(self, config: MocleConfig, num_sites: int, embedding: Tensor) -> None:
        super().__init__(config.dataset_groups)
        self.temperature = config.temperature
        self.top_k = config.top_k
        self.mode = config.gate_mode
        self.noise_std = config.noise_std
        self.train_embedding = config.train_cluster_embedding
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

    @torch.no_grad()
    def set_gates(self, gate: Tensor) -> None:
        """Start the gates of every site at `gate` (E, D), without a bias."""
        self.gate_weight.copy_(gate.expand_as(self.gate_weight))
        if self.gate_bias is not None:
            self.gate_bias.zero_()

    def train_parameters(self, trained: bool) -> None:
        super().train_parameters(trained)
        self.cluster_embedding.requires_grad_(trained and self.train_embedding)

    def forward(self, ids: Tensor, noisy: bool, weights: Tensor | None = None) -> Gates:
        """Gates of all sites in one batched product; noise is drawn here, once.

        Args:
            ids: (B,) int64, already checked; (B, n) with weights.
            noisy: add N(0, noise_std) to the logits.
            weights: (B, n), how much each cluster of a sample counts (see `mixture`). The clean logits are then those
                of the mixed probabilities.
        """
        # In fp32 or better, outside autocast: the choice of an expert must not depend on bf16 rounding.
        with torch.autocast(self.gate_weight.device.type, enabled=False):
            dtype = torch.promote_types(self.gate_weight.dtype, torch.float32)
            ids = self.rows(ids).flatten().to(self.gate_weight.device)
            samples = self.cluster_embedding.index_select(-2, ids).to(dtype)
            # bmm, because matmul picks its kernel by requires_grad, and training and serving must agree to the bit.
            samples = samples.expand(len(self.gate_weight), -1, -1)
            clean = torch.bmm(samples, self.gate_weight.to(dtype).transpose(1, 2))  # (S, B, E)
            if self.gate_bias is not None:
                clean = clean + self.gate_bias.to(dtype).unsqueeze(1)
            logits = clean + self.noise_std * torch.randn_like(clean) if noisy and self.noise_std > 0 else clean
            if weights is None:
                probabilities = gate_probabilities(logits, self.temperature, self.mode)
            else:
                weights = weights.to(logits)
                probabilities = mixed_probabilities(logits, weights, self.temperature, self.mode)
                mixed = mixed_probabilities(clean, weights, self.temperature, self.mode) if noisy else probabilities
                clean = self.temperature * mixed.log()
            # Strongest first; the kept probabilities are not renormalised.
            gate, expert = probabilities.topk(self.top_k, dim=-1)
        return Gates(expert, gate, clean.detach())


class DatasetRouter(ClusterRouter):
    """The same gates, with the dataset's index in place of the cluster's."""

    id_name = "dataset_ids"


class FixedRouter(IdRouter):
    """The id is that of the expert: hard routing, without anything to train.

    Buffers:
        _one: the weight of the chosen expert, in the dtype and on the device of the adapter.
    """

    def __init__(self, config: MocleConfig, num_sites: int) -> None:
        super().__init__(config.dataset_groups)
        self.id_name = "dataset_ids" if config.router == "dataset" else "cluster_ids"
        self.num_sites, self.num_experts = num_sites, config.num_experts
        self.trained = False
        self.register_buffer("_one", torch.ones(()), persistent=False)

    def train_parameters(self, trained: bool) -> None:
        self.trained = trained

    def forward(self, ids: Tensor, noisy: bool, weights: Tensor | None = None) -> Gates:
        if weights is not None:
            raise RoutingError("cluster_weights mix the gates of clusters, and gates='fixed' has none; leave them out.")
        one = cast(Tensor, self._one)
        expert = self.rows(ids).to(one.device).expand(self.num_sites, -1).unsqueeze(-1)
        # A gradient that nobody uses: it tells when a forward has had its backward (see `RoutingState`).
        gate = one.expand(expert.shape).clone().requires_grad_(self.trained and torch.is_grad_enabled())
        # A softmax of these is 1 and 0 exactly.
        logits = one.new_full((*expert.shape[:2], self.num_experts), -torch.inf).scatter(-1, expert, 0.0)
        return Gates(expert, gate, logits)


def build_router(config: MocleConfig, num_sites: int, embedding: Tensor | None, gate: Tensor | None = None) -> Router:
    """The router of a new adapter.

    Args:
        embedding: (K, D), where the cluster embedding starts (see `initial_embedding`).
        gate: (E, D), where the gates of every site start; None: at random.
    """
    if embedding is None:
        return NoRouter()
    if config.gates == "fixed":
        return FixedRouter(config, num_sites)
    router = (DatasetRouter if config.router == "dataset" else ClusterRouter)(config, num_sites, embedding)
    if gate is not None:
        router.set_gates(gate)
    return router


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
        shape = (cast(int, config.num_groups), cast(int, config.cluster_dim))
        return F.normalize(torch.randn(shape), dim=-1)
    centroids = load_centroids(config.centroids)
    for name, found in zip(("num_clusters", "cluster_dim"), centroids.shape, strict=True):
        if getattr(config, name) not in (None, found):
            raise ConfigError(
                f"{name}={getattr(config, name)} but the centroids in {config.centroids} have {found}; "
                f"drop {name} (it is read from the centroids) or use another cluster model."
            )
        setattr(config, name, found)
    check_options(config)  # with the K that it lacked
    return centroids


def check_routing(
    name: str, inputs: Mapping[str, Any], num_clusters: int, num_samples: int | None
) -> tuple[Tensor, Tensor | None]:
    """Of the routing inputs of a batch: the ids that a router reads as `check_ids` gives them, and None.

    With `cluster_weights` these are the ids (B, n) and the weights (B, n).

    Args:
        name: of the ids that the router reads.

    Raises:
        RoutingError: as `check_ids` and `check_weights`; or the router has no use for the weights.
    """
    ids, weights = inputs[name], inputs.get(CLUSTER_WEIGHTS)
    if weights is None:
        return check_ids(name, ids, num_clusters, num_samples), None
    if name != "cluster_ids":
        raise RoutingError(f"{CLUSTER_WEIGHTS} weigh cluster_ids, but this adapter reads {name}; leave them out.")
    ids, weights = check_weights(ids, weights)
    if num_samples is not None and len(ids) != num_samples:
        raise RoutingError(
            f"{name} has {len(ids)} rows but the batch has {num_samples} samples; pass one row a sample."
        )
    return check_ids(name, ids.flatten(), num_clusters, None).view(ids.shape), weights


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
