"""Routing statistics for the logs: what the gates do while training."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch

from llava_mocle.adapter import MocleModel

logger = logging.getLogger(__name__)


class RoutingLog:
    """Averages over the forwards since the last log, of every process.

    Per site group (the linear's own name, such as `up_proj`): mean weight of the chosen expert (`gate`), share of
    samples each expert got (`expert_0`...), and mean universal weight. Over all sites: share of choices that the
    noise overturned.
    """

    def __init__(self, tuner: MocleModel) -> None:
        self.tuner = tuner
        groups: dict[str, list[int]] = defaultdict(list)
        for index, site in enumerate(tuner.sites):
            groups[site.rsplit(".", 1)[-1]].append(index)
        self.groups = {name: torch.tensor(indices) for name, indices in groups.items()}
        self.reset()

    def reset(self) -> None:
        """Start a new average."""
        self._sums: dict[str, float] = defaultdict(float)
        self._forwards = 0
        self.device = torch.device("cpu")

    def add(self) -> None:
        """Take in the routing of the last forward."""
        routing = self.tuner.last_routing()
        if routing is None:
            return
        self._forwards += 1
        self.device = routing.gate.device
        experts = self.tuner.peft_config[self.tuner.active_adapters[0]].num_experts
        for name, rows in self.groups.items():
            index, gate = routing.expert[rows], routing.gate[rows]
            self._sums[f"routing/{name}/gate"] += gate.float().mean().item()
            shares = torch.bincount(index.flatten().cpu(), minlength=experts).float() / index.numel()
            for expert in range(experts):
                self._sums[f"routing/{name}/expert_{expert}"] += shares[expert].item()
            if routing.universal_weight is not None:
                self._sums[f"routing/{name}/universal"] += routing.universal_weight[rows].float().mean().item()
        self._sums["routing/overturned"] += routing.overturned.float().mean().item()

    def pop(self, reduce: Callable[..., Any] | None = None) -> Mapping[str, float]:
        """The averages since the last call; empty when there was no forward.

        Args:
            reduce: `Accelerator.reduce`, where several processes are to be averaged; all of them call together.
        """
        if not self._forwards:
            return {}
        names = sorted(self._sums)
        values = torch.tensor([self._sums[name] / self._forwards for name in names], device=self.device)
        self.reset()
        if reduce is not None:
            values = reduce(values, reduction="mean")
        return dict(zip(names, values.tolist(), strict=True))


def warn_of_idle_experts(gates: torch.Tensor, sites: list[str]) -> list[str]:
    """Warn of experts that no cluster chooses, and return the warnings.

    Args:
        gates: (K, S, E) noise-free gate probabilities.
        sites: the S site names.
    """
    chosen = gates.argmax(dim=-1)
    idle: dict[int, list[str]] = defaultdict(list)
    for site, name in enumerate(sites):
        for expert in sorted(set(range(gates.shape[-1])) - set(chosen[:, site].tolist())):
            idle[expert].append(name)
    if gates.shape[0] < gates.shape[-1]:
        return []  # fewer clusters than experts: some must be idle
    messages = [
        f"expert {expert}: no cluster chooses it at {len(names)} of {len(sites)} sites (first: {names[0]})"
        for expert, names in idle.items()
    ]
    for message in messages:
        logger.warning(message)
    return messages
