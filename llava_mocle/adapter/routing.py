"""What a routing is: the gates that a router decided, and what each site makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from llava_mocle.adapter.gating import mixing_weights

# Modules pass named tuples to each other, because ZeRO-3 and FSDP look for tensors in tuples to place their hooks.


class Gates(NamedTuple):
    """What a router decides for B samples at S sites: the k strongest experts of E.

    Attributes:
        expert: (S, B, k) int64, strongest first.
        gate: (S, B, k), their probabilities.
        clean_logits: (S, B, E), the gate logits before noise, detached.
    """

    expert: Tensor
    gate: Tensor
    clean_logits: Tensor


class Assignment(NamedTuple):
    """How one site mixes its experts for a batch of B samples with k experts each.

    Attributes:
        expert: (B, k) int64, strongest first.
        weight: (B, k), what each chosen expert's output is multiplied by.
        universal_weight: (B,), or None without a universal expert.
        order: (B * k,) int64: the pairs (sample, choice), row-major, sorted by expert.
        inverse: (B * k,) int64: where each pair went.
        is_sorted: whether the pairs are in expert order already, so that nothing has to be moved.
        runs: (expert, length) of each run of equal experts in that order.
    """

    expert: Tensor
    weight: Tensor
    universal_weight: Tensor | None
    order: Tensor
    inverse: Tensor
    is_sorted: bool
    runs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class RoutingStatistics:
    """A forward's routing for logs, detached: S sites, B samples.

    Attributes:
        expert: (S, B), the strongest expert.
        gate: (S, B), its probability.
        weight: (S, B), what its output was multiplied by.
        universal_weight: (S, B), or None without a universal expert.
        overturned: (S, B) bool, whether noise changed the choice.
    """

    expert: Tensor
    gate: Tensor
    weight: Tensor
    universal_weight: Tensor | None
    overturned: Tensor


def copy_to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies on the CPU of int64 tensors of any shapes. They travel together, so that the CPU waits for a GPU once."""
    device = tensors[0].device
    flat = torch.cat([tensor.flatten().to(device) for tensor in tensors]).cpu()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


class Routing:
    """The routing of B samples at all S sites of one adapter.

    Args:
        gates: what the router decided.
        mode: the adapter's `gate_mode`.
        universal: whether the adapter has a universal expert.
        experts: `gates.expert` on the host, from a caller who has it already. Else it is copied from the device.

    Attributes:
        gates: what the router decided.
        weight: (S, B, k), what the chosen experts' outputs are multiplied by.
        universal_weight: (S, B), or None without a universal expert.
    """

    def __init__(self, gates: Gates, mode: str, universal: bool, experts: Tensor | None = None) -> None:
        self.gates = gates
        self.mode = mode
        self.weight, self.universal_weight = mixing_weights(gates.gate, mode, universal)
        self._experts = copy_to_host([gates.expert])[0] if experts is None else experts
        self._sites = self._split()

    def _split(self) -> list[Assignment]:
        order = self.gates.expert.flatten(1).argsort(dim=1, stable=True)
        # The sites need run lengths as Python numbers.
        pairs = self._experts.flatten(1).tolist()
        pairs_in_order = [sorted(row) for row in pairs]
        no_universal = [None] * len(pairs)
        columns = zip(
            self.gates.expert.unbind(0),
            self.weight.unbind(0),
            no_universal if self.universal_weight is None else self.universal_weight.unbind(0),
            order.unbind(0),
            order.argsort(dim=1).unbind(0),
            (found == wanted for found, wanted in zip(pairs, pairs_in_order, strict=True)),
            (tuple((e, len(list(group))) for e, group in groupby(row)) for row in pairs_in_order),
            strict=True,
        )
        return [Assignment(*column) for column in columns]

    @property
    def num_samples(self) -> int:
        return self.gates.expert.shape[1]

    def site(self, index: int) -> Assignment:
        """The assignment of site `index` (its place in the order of the gates)."""
        return self._sites[index]

    def repeat(self, factor: int) -> Routing:
        """The routing with every sample `factor` times in a row, as `generate` arranges beams and sequences."""
        gates = Gates(*(part.repeat_interleave(factor, dim=1) for part in self.gates))
        experts = self._experts.repeat_interleave(factor, dim=1)
        return Routing(gates, self.mode, self.universal_weight is not None, experts)

    def statistics(self) -> RoutingStatistics:
        """What the logs show of this routing."""
        universal = self.universal_weight
        return RoutingStatistics(
            expert=self.gates.expert[..., 0],
            gate=self.gates.gate[..., 0].detach(),
            weight=self.weight[..., 0].detach(),
            universal_weight=None if universal is None else universal.detach(),
            overturned=self.gates.clean_logits.argmax(dim=-1) != self.gates.expert[..., 0],
        )
