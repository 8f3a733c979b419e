"""A tuner that knows the routers of its adapters, and tells what they decide for a cluster or decided in a forward."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.gating import gate_probabilities
from llava_mocle.adapter.in_place import InPlaceTuner
from llava_mocle.adapter.layer import MocleLinear
from llava_mocle.adapter.learned_gates import SumOverProcesses
from llava_mocle.adapter.model_routing import ModelRouting
from llava_mocle.adapter.options import LEARNED_ROUTERS
from llava_mocle.adapter.router import ClusterRouter, Router, check_ids
from llava_mocle.adapter.routing import Routing, RoutingStatistics
from llava_mocle.adapter.sentence import SentenceRouting
from llava_mocle.adapter.token_gates import TokenStatistics
from llava_mocle.errors import ConfigError


class RoutedTuner(InPlaceTuner):
    """The part of a tuner that answers questions about its adapters' routing."""

    mocle_router: nn.ModuleDict
    _routing: ModelRouting
    _site_names: dict[str, list[str]]

    @property
    def sites(self) -> list[str]:
        """Names of the active adapter's adapted modules, in the order of S."""
        return list(self._site_names[self.active_adapters[0]])

    def last_routing(self, adapter_name: str | None = None) -> RoutingStatistics | TokenStatistics | None:
        """The routing of the last forward, detached; None before the first, after `generate` and for router="none".

        For router="token" it is what all tokens chose together.
        """
        name = adapter_name or self.active_adapters[0]
        if name in self._routing.state.tokens:
            return self._routing.state.tokens[name].statistics()
        routing = self._routing.state.routings.get(name)
        return routing.statistics() if isinstance(routing, Routing) else None

    def balance_losses(
        self,
        counted: Tensor | None = None,
        sum_over: SumOverProcesses = lambda total: total,
        adapter_name: str | None = None,
    ) -> Tensor | None:
        """(B,): what each sample of the last forward adds to the balance loss, with its gradient; see docs/adapter.md.

        The loss is the mean over the counted samples of a step, times `balance_loss_weight`. It is 1 where the experts
        are used alike.

        Args:
            counted: (B,) bool, the samples that count; None: all.
            sum_over: adds a tensor up over all processes. For router="sentence" all of them then call together.

        Returns:
            None where the balance loss has no weight, or there was no forward in training.
        """
        name = adapter_name or self.active_adapters[0]
        if name in self._routing.state.tokens:
            return self._routing.state.tokens[name].balance_losses()
        routing = self._routing.state.routings.get(name)
        if not self._config(name).balance_loss_weight or not isinstance(routing, SentenceRouting):
            return None
        if counted is None:
            counted = torch.ones(routing.num_samples, dtype=torch.bool)
        return routing.balance_losses(counted, sum_over)

    @torch.no_grad()
    def clean_gates(self, adapter_name: str = "default") -> Tensor:
        """(K, S, E): every cluster's gate probabilities without noise. Ones (1, S, 1) for router="none".

        Raises:
            RoutingError: the router is "token" or "sentence", whose gates are those of no cluster.
        """
        router, config = self._router(adapter_name), self._config(adapter_name)
        if config.router in LEARNED_ROUTERS:
            config.check_cluster(None)
        if router.id_name is None:
            return torch.ones(1, len(self._site_names[adapter_name]), 1)
        logits = router(torch.arange(cast(int, config.num_clusters)), noisy=False).clean_logits
        return gate_probabilities(logits, config.temperature, config.gate_mode).transpose(0, 1)

    def cluster_routing(self, cluster: int | None, adapter_name: str = "default") -> Routing | None:
        """The noise-free routing of one sample of `cluster`; None for router="none", which has no clusters.

        Raises:
            RoutingError: no cluster was given, there is no such cluster, or one was given for router="none".
        """
        router, config = self._router(adapter_name), self._config(adapter_name)
        config.check_cluster(cluster)
        if router.id_name is None:
            return None
        ids = check_ids("cluster", [cluster], cast(int, config.num_clusters), 1)
        with torch.no_grad():
            return Routing(router(ids, noisy=False), config.gate_mode, config.universal_expert)

    def set_cluster_embedding(self, centroids: Tensor, adapter_name: str = "default") -> None:
        """Start the cluster embedding from `centroids` (K, D).

        Raises:
            ConfigError: the shape does not fit, or the adapter's router has no embedding.
        """
        router = self._router(adapter_name)
        if not isinstance(router, ClusterRouter):
            config = self._config(adapter_name)
            raise ConfigError(
                f"adapter {adapter_name!r} has router={config.router!r} and gates={config.gates!r}, and so no cluster "
                "embedding."
            )
        router.set_embedding(torch.as_tensor(centroids))

    def _router(self, adapter_name: str) -> Router:
        self._config(adapter_name)
        return cast(Router, self.mocle_router[adapter_name])

    def _config(self, adapter_name: str) -> MocleConfig:
        if adapter_name not in self.peft_config:
            raise ConfigError(f"there is no adapter {adapter_name!r}; there are: {', '.join(self.peft_config)}.")
        return cast(MocleConfig, self.peft_config[adapter_name])

    def _is_merged(self, adapter_name: str) -> bool:
        return adapter_name in self._first_site(adapter_name).merged_adapters

    def _first_site(self, adapter_name: str) -> MocleLinear:
        return cast(MocleLinear, self.model.get_submodule(self._site_names[adapter_name][0]))
