"""What a routing is: the gates that a router decided, and what each site makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
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


class ExpertOrder(NamedTuple):
    """The pairs (sample, choice of a task expert), row-major, put in the order of their experts.

    Attributes:
        order: (B * k,) int64: the pairs in that order.
        inverse: (B * k,) int64: where each pair went.
        is_sorted: whether they are in that order already, so that nothing has to be moved.
        runs: (expert, length) of each run of equal experts in that order.
    """

    order: Tensor
    inverse: Tensor
    is_sorted: bool
    runs: tuple[tuple[int, int], ...]


class SitePlan:
    """What the CPU knows of a site's routing, and what is worked out from it once, when it is first asked for.

    Args:
        table: (B, C) int64 on the CPU, the slot of each choice.
        task_experts: (B, k) int64 on the samples' device, the same slots without the universal expert's.
    """

    def __init__(self, table: Tensor, task_experts: Tensor) -> None:
        self.table = table
        self._task_experts = task_experts

    @cached_property
    def expert_order(self) -> ExpertOrder:
        """The samples' task experts in the order of experts."""
        pairs = self.table[:, : self._task_experts.shape[1]].flatten().tolist()
        in_order = sorted(pairs)
        runs = tuple((expert, len(list(group))) for expert, group in groupby(in_order))
        # On the device, because a copy from the host would make the CPU wait for it.
        order = self._task_experts.flatten().argsort(stable=True)
        return ExpertOrder(order, order.argsort(), pairs == in_order, runs)


class Assignment(NamedTuple):
    """How one site mixes its experts for a batch of B samples with C choices each.

    The choices are k task experts, strongest first, and after them the universal expert if there is one.

    Attributes:
        slots: (B, C) int64, the slot of each choice in the stack of experts.
        weight: (B, C), what each choice's output is multiplied by.
        universal: whether the last choice is the universal expert.
        plan: the same slots, as the CPU needs them.
    """

    slots: Tensor
    weight: Tensor
    universal: bool
    plan: SitePlan

    @property
    def top_k(self) -> int:
        """k, the number of task experts of a sample."""
        return self.slots.shape[1] - self.universal


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

    def means(self, num_experts: int) -> dict[str, Tensor]:
        """The means over the samples at every site, (S,) each: `gate`, `overturned`, `expert_0`..., `universal`."""
        found = {"gate": self.gate.float().mean(dim=1), "overturned": self.overturned.float().mean(dim=1)}
        for expert in range(num_experts):
            found[f"expert_{expert}"] = (self.expert == expert).float().mean(dim=1)
        if self.universal_weight is not None:
            found["universal"] = self.universal_weight.float().mean(dim=1)
        return found


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
        experts: `gates.expert` on the CPU, from a caller who has it already. Else it is copied from the device.

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
        slots, weight, table = self.gates.expert, self.weight, self._experts
        universal = self.universal_weight is not None
        if self.universal_weight is not None:
            last = self.gates.clean_logits.shape[-1]  # the slot after those of the E task experts
            slots, table = (F.pad(part, (0, 1), value=last) for part in (slots, table))
            weight = torch.cat([weight, self.universal_weight.unsqueeze(-1)], dim=-1)
        columns = zip(slots.unbind(0), weight.unbind(0), table.unbind(0), self.gates.expert.unbind(0), strict=True)
        return [
            Assignment(site_slots, site_weight, universal, SitePlan(site_table, task_experts))
            for site_slots, site_weight, site_table, task_experts in columns
        ]

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
