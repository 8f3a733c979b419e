"""MocleModel: injects the sites, routes every forward once at the root, and looks after the adapters."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from peft.config import PeftConfig
from peft.utils.integrations import init_empty_weights
from torch import Tensor, nn

from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.forward import RootForward
from llava_mocle.adapter.gating import gate_probabilities
from llava_mocle.adapter.generation import Generation
from llava_mocle.adapter.layer import MocleLinear, StackedExperts
from llava_mocle.adapter.merging import Merging
from llava_mocle.adapter.router import ClusterRouter, Router, build_router, check_ids, initial_embedding
from llava_mocle.adapter.routing import Routing, RoutingState, RoutingStatistics
from llava_mocle.adapter.targets import find_targets
from llava_mocle.errors import ConfigError, RoutingError


class MocleModel(RootForward, Merging):
    """The tuner behind `get_peft_model(model, MocleConfig(...))`; its methods are reachable on the PeftModel.

    `forward` and `generate` of the adapted model take `cluster_ids` (B,) long, or `dataset_ids` (B,) for
    router="dataset"; a model with router="none" takes and ignores both. For `generate`, configure
    task_type="CAUSAL_LM" (or another task type that PEFT knows), as PEFT bypasses the tuner without one.
    """

    prefix = "mocle_"
    tuner_layer_cls = MocleLinear
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012
    uses_shared_state = True

    # ------ injection

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        self.mocle_router = nn.ModuleDict()
        self._routing = RoutingState()
        self._site_names: dict[str, list[str]] = {}
        self._merged_cluster: dict[str, int | None] = {}
        self._generation: Generation | None = None
        self._adapters_enabled = True
        self._hook_handles: list[Any] = []

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Replace the target linears, then build the router for all of them.

        Raises:
            ConfigError: the targets match nothing, or something that cannot be adapted; the centroids do not fit.
            ClusterModelError: the centroids cannot be read.
        """
        config = self._config(adapter_name)
        # Everything that can go wrong is tried before the model is touched.
        sites = find_targets(model, config, self._check_target_module_exists)
        embedding = initial_embedding(config)
        super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage, state_dict)
        config.sites = sites
        self._site_names[adapter_name] = sites
        for index, name in enumerate(sites):
            layer = cast(MocleLinear, model.get_submodule(name))
            layer.site_index[adapter_name] = None if config.router == "none" else index
        with init_empty_weights() if low_cpu_mem_usage else nullcontext():
            self.mocle_router[adapter_name] = build_router(config, len(sites), embedding).train(model.training)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self._sync_router_grad()
        if not self._hook_handles:
            self._hook_handles = [
                self.model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
                self.model.register_forward_hook(self._after_forward, always_call=True),
            ]

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, MocleLinear):
            target.update_layer(adapter_name, cast(MocleConfig, peft_config))
            return
        layer = MocleLinear(cast(nn.Linear, target), adapter_name, cast(MocleConfig, peft_config), self._routing)
        if adapter_name not in self.active_adapters:
            # An additional adapter is not trainable until it is activated.
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Also called by PEFT after it assigned loaded weights to an adapter that was created empty."""
        router = self.mocle_router[adapter_name]
        weight = cast(nn.Linear, self._first_site(adapter_name).get_base_layer()).weight
        if any(parameter.is_meta for parameter in router.parameters()):
            return
        # Gates stay in fp32 beside a half-precision base (see _cast_adapter_dtype) and follow an fp64 one.
        router.to(device=device or weight.device, dtype=torch.float64 if weight.dtype == torch.float64 else None)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if not autocast_adapter_dtype:
            # Trainable parameters of one dtype: what ZeRO-3 asserts.
            experts = cast(StackedExperts, self._first_site(adapter_name).mocle_experts[adapter_name])
            self.mocle_router[adapter_name].to(experts.experts_A.dtype)

    # ------ what the adapters say about themselves

    @property
    def sites(self) -> list[str]:
        """Names of the active adapter's adapted modules, in the order of S."""
        return list(self._site_names[self.active_adapters[0]])

    def last_routing(self, adapter_name: str | None = None) -> RoutingStatistics | None:
        """The routing of the last forward, detached; None before the first, after `generate` and for router="none"."""
        routing = self._routing.routings.get(adapter_name or self.active_adapters[0])
        return None if routing is None else routing.statistics()

    @torch.no_grad()
    def clean_gates(self, adapter_name: str = "default") -> Tensor:
        """(K, S, E): every cluster's gate probabilities without noise. Ones (1, S, 1) for router="none"."""
        router, config = self._router(adapter_name), self._config(adapter_name)
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
        if router.id_name is None:
            if cluster is not None:
                raise RoutingError(f"cluster is {cluster!r}, but this adapter is a plain LoRA: leave the cluster out.")
            return None
        kind, count = router.id_name.removesuffix("_ids"), cast(int, config.num_clusters)
        if cluster is None:
            raise RoutingError(
                f"the gates of one {kind} are needed, 0 to {count - 1}: pass cluster=c (--cluster on the command line)."
            )
        if isinstance(cluster, int) and not 0 <= cluster < count:
            raise RoutingError(
                f"cluster is {cluster}, but this adapter has {kind}s 0 to {count - 1}: choose one of them."
            )
        ids = check_ids("cluster", [cluster], count, 1)
        with torch.no_grad():
            return Routing(router(ids, noisy=False), config.gate_mode, config.universal_expert)

    def set_cluster_embedding(self, centroids: Tensor, adapter_name: str = "default") -> None:
        """Start the cluster embedding from `centroids` (K, D).

        Raises:
            ConfigError: the shape does not fit, or the adapter's router has no embedding.
        """
        router = self._router(adapter_name)
        if not isinstance(router, ClusterRouter):
            raise ConfigError(f"adapter {adapter_name!r} has router='none', which has no cluster embedding.")
        router.set_embedding(torch.as_tensor(centroids))

    def _router(self, adapter_name: str) -> Router:
        self._config(adapter_name)
        return cast(Router, self.mocle_router[adapter_name])

    def _config(self, adapter_name: str) -> MocleConfig:
        if adapter_name not in self.peft_config:
            raise ConfigError(f"there is no adapter {adapter_name!r}; there are: {', '.join(self.peft_config)}.")
        return cast(MocleConfig, self.peft_config[adapter_name])

    def _first_site(self, adapter_name: str) -> MocleLinear:
        return cast(MocleLinear, self.model.get_submodule(self._site_names[adapter_name][0]))

    # ------ switching adapters

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_name, inference_mode)
        self._sync_router_grad()

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        super().set_requires_grad(adapter_names, requires_grad)
        self._sync_router_grad()

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        super()._enable_adapter_layers(enabled)
        self._adapters_enabled = enabled
        self._sync_router_grad()

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        del self.mocle_router[adapter_name], self._site_names[adapter_name]
        self._routing.clear()

    def _sync_router_grad(self) -> None:
        """Gates and cluster embedding train exactly when the experts of their adapter do."""
        for adapter_name, router in self.mocle_router.items():
            experts = cast(StackedExperts, self._first_site(adapter_name).mocle_experts[adapter_name])
            router.requires_grad_(experts.experts_A.requires_grad)
