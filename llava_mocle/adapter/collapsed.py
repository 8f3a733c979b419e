"""One cluster at a time: the experts that all samples of a `generate` call share, concatenated into one LoRA a site.

Two small products a site and token, as a plain LoRA of their summed rank, and nothing left to route.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from llava_mocle.adapter.product import collapsed_pair
from llava_mocle.adapter.routing import Gates, Routing

if TYPE_CHECKING:
    from llava_mocle.adapter.layer import StackedExperts

logger = logging.getLogger(__name__)


class Pair(NamedTuple):
    """One site for one cluster, in the dtype of its experts.

    Attributes:
        A: (n r, in), of n mixed experts, the universal one included.
        B: (n r, out), multiplied by the experts' weights and the scaling. It lies transposed: a few tokens times a
            tall matrix are slower (on a CPU 1.6 times, for one token, r 128 and 2048 to 5632 features).
    """

    A: Tensor
    B: Tensor

    def __call__(self, x: Tensor, cast_input: bool = True) -> Tensor:
        """The experts' contribution (B, ..., out) for x (B, ..., in)."""
        return F.linear(x.to(self.A.dtype) if cast_input else x, self.A) @ self.B


class CollapsedRouting:
    """Stands for the `Routing` of samples that all have one cluster: its sites are pairs instead of assignments.

    Args:
        pairs: one a site.
        gates: those of the samples.
    """

    def __init__(self, pairs: Sequence[Pair], gates: Gates) -> None:
        self.pairs = pairs
        self.gates = gates
        self.num_samples = gates.expert.shape[1]

    def site(self, index: int) -> Pair:
        """The pair of site `index`."""
        return self.pairs[index]

    def repeat(self, factor: int) -> CollapsedRouting:
        """The routing with every sample `factor` times in a row."""
        return CollapsedRouting(self.pairs, Gates(*(part.repeat_interleave(factor, dim=1) for part in self.gates)))


class _Weights:
    """Tells whether tensors are still what they were: the same memory, not written to since.

    It does not keep the memory alive. A write through `.data` is not seen, so this is only asked about frozen weights.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._seen = [_seen(tensor) for tensor in tensors]

    def are(self, tensors: Sequence[Tensor]) -> bool:
        return self._seen == [_seen(tensor) for tensor in tensors]


def _seen(tensor: Tensor) -> tuple[StorageWeakRef, object, torch.dtype]:
    # Tensors of inference mode have no version: they are never what they were.
    version = object() if tensor.is_inference() else tensor._version
    return StorageWeakRef(tensor.untyped_storage()), version, tensor.dtype


class _Adapter(NamedTuple):
    """What is kept of one adapter: its weights as they were, and its clusters' pairs, the latest asked for last."""

    weights: _Weights
    clusters: OrderedDict[Hashable, list[Pair]]


class CollapsedClusters:
    """The pairs of the clusters that were asked for last, the least recent forgotten first.

    They are kept from one call to the next while the adapter is frozen, as that of a model that only answers is. Those
    of one adapter take no more memory than its experts do, or what one cluster takes. Pairs of weights that have
    changed since, or been moved, are made anew.
    """

    def __init__(self) -> None:
        self._kept: dict[str, _Adapter] = {}
        self._said: set[str] = set()

    def forget(self) -> None:
        """Free the memory of all pairs."""
        self._kept.clear()

    def collapse(
        self, adapter_name: str, cluster: Hashable, routing: Routing, sites: Sequence[StackedExperts], router: nn.Module
    ) -> CollapsedRouting | None:
        """The collapsed routing of samples of one cluster; None where the experts of a site cannot be concatenated.

        Args:
            cluster: their id, or whatever else says which of the adapter's routings this is (see `distinct_mixtures`).
            routing: of the samples, without noise.
            sites: the adapter's experts, in the order of its sites.
            router: what the gates were computed with.
        """
        if (reason := next(filter(None, map(_why_not, sites)), None)) is not None:
            if reason not in self._said:
                self._said.add(reason)
                logger.info("generate mixes the experts of every token, as %s.", reason)
            return None
        tensors = [*router.parameters(), *(tensor for site in sites for tensor in (site.experts_A, site.experts_B))]
        trained = any(tensor.requires_grad for tensor in tensors)
        kept = self._kept.get(adapter_name)
        if kept is None or trained or not kept.weights.are(tensors):
            kept = self._kept[adapter_name] = _Adapter(_Weights(tensors), OrderedDict())
        pairs = kept.clusters.get(cluster) or [_pair(site, routing, index) for index, site in enumerate(sites)]
        if trained:
            del self._kept[adapter_name]
        else:
            kept.clusters[cluster] = pairs
            kept.clusters.move_to_end(cluster)
            room = sum(_size(site.experts_A) + _size(site.experts_B) for site in sites)
            while len(kept.clusters) > max(1, room // sum(_size(tensor) for pair in pairs for tensor in pair)):
                kept.clusters.popitem(last=False)
        return CollapsedRouting(pairs, routing.gates)

    def __reduce__(self) -> tuple:
        return CollapsedClusters, ()  # a copied model has made none


@torch.no_grad()
def _pair(site: StackedExperts, routing: Routing, index: int) -> Pair:
    pair_A, pair_B = collapsed_pair(site.experts_A, site.experts_B, routing.site(index))
    dtype = site.experts_A.dtype
    return Pair(pair_A.to(dtype), (site.scaling * pair_B).to(dtype).t().contiguous())


def _why_not(site: StackedExperts) -> str | None:
    """Why the experts of a site cannot be read outside their forward, or must not be passed by; None if they can."""
    if site.training:
        return "the adapter is in training mode"
    if site._forward_pre_hooks or site._forward_hooks or "forward" in vars(site):
        return "hooks on the experts want to see them called"
    for parameter in (site.experts_A, site.experts_B):
        if type(parameter) is not nn.Parameter or parameter.is_meta or parameter.ndim != 3:
            return "their weights are divided over processes, or lie elsewhere until they are used"
    return None


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
