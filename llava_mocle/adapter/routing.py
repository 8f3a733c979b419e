"""The routing of one forward pass: what it holds, how it is handed to the sites, and how long it lives."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from llava_mocle.adapter.gating import mixing_weights
from llava_mocle.errors import RoutingError

# What modules pass to each other are named tuples: ZeRO-3 and FSDP look for tensors in tuples to place their hooks.


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
        is_sorted: the pairs are in expert order already, so that nothing has to be moved.
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
    """The last forward's routing, detached, for logs: S sites, B samples.

    `expert` (S, B), `gate` (S, B) of the strongest expert, `weight` (S, B) it was applied with,
    `universal_weight` (S, B) or None, and `overturned` (S, B) bool: noise changed the choice.
    """

    expert: Tensor
    gate: Tensor
    weight: Tensor
    universal_weight: Tensor | None
    overturned: Tensor


class Routing:
    """The routing of B samples at all S sites of one adapter.

    Attributes:
        gates: what the router decided.
        weight: (S, B, k), what the chosen experts' outputs are multiplied by.
        universal_weight: (S, B), or None without a universal expert.
    """

    def __init__(self, gates: Gates, mode: str, universal: bool) -> None:
        self.gates = gates
        self.mode = mode
        self.weight, self.universal_weight = mixing_weights(gates.gate, mode, universal)
        self._sites = self._split()

    def _split(self) -> list[Assignment]:
        pairs = self.gates.expert.flatten(1)
        in_order, order = pairs.sort(dim=1, stable=True)
        # The one transfer to the host in a forward: the sites need run lengths as Python numbers.
        pairs_host, in_order_host = torch.stack((pairs, in_order)).tolist()
        no_universal = [None] * len(pairs_host)
        columns = zip(
            self.gates.expert.unbind(0),
            self.weight.unbind(0),
            no_universal if self.universal_weight is None else self.universal_weight.unbind(0),
            order.unbind(0),
            order.argsort(dim=1).unbind(0),
            (found == wanted for found, wanted in zip(pairs_host, in_order_host, strict=True)),
            (tuple((e, len(list(group))) for e, group in groupby(row)) for row in in_order_host),
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
        """Every sample `factor` times in a row: how `generate` lays out beams and returned sequences."""
        gates = Gates(*(part.repeat_interleave(factor, dim=1) for part in self.gates))
        return Routing(gates, self.mode, universal=self.universal_weight is not None)

    def statistics(self) -> RoutingStatistics:
        """See `RoutingStatistics`."""
        universal = self.universal_weight
        return RoutingStatistics(
            expert=self.gates.expert[..., 0],
            gate=self.gates.gate[..., 0].detach(),
            weight=self.weight[..., 0].detach(),
            universal_weight=None if universal is None else universal.detach(),
            overturned=self.gates.clean_logits.argmax(dim=-1) != self.gates.expert[..., 0],
        )


class _Pending:
    """Lives as long as the autograd graph of one forward's gates; `done` once their gradient was computed."""

    def __init__(self) -> None:
        self.done = False

    def mark(self, _gradient: Tensor) -> None:
        self.done = True


def _is_pending(ref: weakref.ref[_Pending]) -> bool:
    pending = ref()
    return pending is not None and not pending.done


def _in_backward() -> bool:
    """Whether autograd is running: then a site is being recomputed by gradient checkpointing."""
    return torch._C._current_graph_task_id() != -1


class RoutingState:
    """Hands the current routing to the sites, from the start of a root forward until the next one starts.

    It stays after the forward because gradient checkpointing recomputes the sites during backward. A site that is
    called at any other time outside the root's forward gets an error, never an earlier batch's routing.
    """

    def __init__(self) -> None:
        self.routings: dict[str, Routing] = {}
        self.merging: dict[str, Routing | None] = {}
        self._running = False
        self._current: list[weakref.ref[_Pending]] = []
        self._replaced: list[weakref.ref[_Pending]] = []

    def start(self, routings: dict[str, Routing]) -> None:
        """Take over the routing of a forward that begins now."""
        self.routings = routings
        self._running = True
        self._replaced = [ref for ref in self._replaced + self._current if _is_pending(ref)]
        self._current = []
        for routing in routings.values():
            if routing.gates.gate.requires_grad:
                pending = _Pending()
                # The hook is owned by the graph: it goes when the graph goes, backward or not.
                routing.gates.gate.register_hook(pending.mark)
                self._current.append(weakref.ref(pending))

    def finish(self) -> None:
        """The root's forward is over; what remains is for recomputation only."""
        self._running = False

    def clear(self) -> None:
        self.routings = {}
        self._running = False

    def assignment(self, adapter: str, site: int, rows: int) -> Assignment:
        """The assignment of a site for an input of `rows` samples.

        Raises:
            RoutingError: no forward of the whole model is running, the routing belongs to a later forward, or the
                number of rows is not the number of routed samples.
        """
        routing = self.routings.get(adapter)
        if routing is None or not (self._running or _in_backward()):
            raise RoutingError(
                "an adapted module was called outside the forward of its model, so no sample has a cluster; "
                "call the whole model with its routing ids."
            )
        if not self._running and any(_is_pending(ref) for ref in self._replaced):
            raise RoutingError(
                "gradient checkpointing recomputes a forward whose routing was replaced by a later forward; "
                "call backward after every forward, or switch gradient checkpointing off."
            )
        if routing.num_samples != rows:
            raise RoutingError(
                f"an adapted module got a batch of {rows} rows while {routing.num_samples} samples were routed; "
                "adapt only modules whose first dimension is the sample (not a vision tower, not flattened tokens)."
            )
        return routing.site(site)

    def __deepcopy__(self, _memo: dict) -> RoutingState:
        # Tensors of a live autograd graph cannot be copied, and a copied model has seen no forward yet.
        return RoutingState()

    def __reduce__(self) -> tuple:
        return RoutingState, ()
