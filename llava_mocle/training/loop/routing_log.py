"""Routing statistics for the logs: what the gates do during training."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from llava_mocle.adapter import MocleModel


class RoutingLog:
    """Averages over the forwards since the last log, of every process.

    Per site group (the linear's own name, such as `up_proj`): mean weight of the chosen expert (`gate`), share of
    samples (of tokens, with the token router) each expert got (`expert_0`...), and mean universal weight. Over all
    sites: share of choices that the noise overturned. Sums stay on the routing's device, so that a GPU is waited for
    only when they are logged.
    """

    def __init__(self, tuner: MocleModel) -> None:
        self.tuner = tuner
        self.groups: dict[str, list[int]] = defaultdict(list)
        for index, site in enumerate(tuner.sites):
            self.groups[site.rsplit(".", 1)[-1]].append(index)
        self.reset()

    def reset(self) -> None:
        """Start a new average."""
        self._sums: dict[str, Tensor] = {}
        self._forwards = 0

    def add(self) -> None:
        """Take in the routing of the last forward."""
        routing = self.tuner.last_routing()
        if routing is None:
            return
        self._forwards += 1
        experts = self.tuner.peft_config[self.tuner.active_adapters[0]].num_experts
        for name, value in routing.means(experts).items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def pop(self, reduce: Callable[..., Any] | None = None) -> Mapping[str, float]:
        """The averages since the last call; empty when there was no forward.

        Args:
            reduce: `Accelerator.reduce`, where several processes are to be averaged; all of them call together.
        """
        if not self._forwards:
            return {}
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] for name in names]) / self._forwards  # (statistics, S)
        self.reset()
        if reduce is not None:
            means = reduce(means, reduction="mean")
        sites = dict(zip(names, means.cpu().double(), strict=True))
        logs = {"routing/overturned": sites.pop("overturned").mean().item()}
        for group, members in self.groups.items():
            logs |= {f"routing/{group}/{name}": value[members].mean().item() for name, value in sites.items()}
        return logs
