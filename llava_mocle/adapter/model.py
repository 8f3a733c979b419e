"""MocleModel: MoCLE behind PEFT's interface. Puts the sites into a model, and routes samples for its adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from peft.config import PeftConfig
from peft.utils.integrations import init_empty_weights
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from llava_mocle.adapter.bare_parameters import check_modules_to_save, find_parameters
from llava_mocle.adapter.collapsed import CollapsedClusters, CollapsedRouting
from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.gate_start import initial_gate
from llava_mocle.adapter.gated_mlp import GatedMlp, MlpNames, activation_name
from llava_mocle.adapter.generation import batch_size
from llava_mocle.adapter.in_place import PREFIX
from llava_mocle.adapter.layer import MocleLinear, StackedExperts
from llava_mocle.adapter.mixture import CLUSTER_WEIGHTS, distinct_mixtures
from llava_mocle.adapter.model_routing import ROUTING_INPUTS, ModelRouting, callable_ancestors
from llava_mocle.adapter.routed import RoutedTuner
from llava_mocle.adapter.router import Router, build_router, check_range, check_routing, initial_embedding
from llava_mocle.adapter.routing import Gates, Routing, copy_to_host
from llava_mocle.adapter.sentence import SentenceRouter, embedding_dim
from llava_mocle.adapter.targets import find_targets
from llava_mocle.adapter.token_gates import TokenRouting
from llava_mocle.errors import RoutingError


class MocleModel(RoutedTuner):
    """The tuner behind `get_peft_model(model, MocleConfig(...))`; its methods are reachable on the PeftModel.

    `forward` and `generate` of the adapted model take `cluster_ids` (B,) long, `dataset_ids` (B,) for router="dataset",
    or `instruction_ids` (B, L) for router="sentence"; inputs of other routers are ignored. `cluster_weights` beside
    `cluster_ids`, both (B, n), mix the gates of several clusters (see `mixture`). For `generate`, configure
    task_type="CAUSAL_LM" (or another task type that PEFT knows), as PEFT bypasses the tuner without one.
    """

    prefix = PREFIX
    tuner_layer_cls = MocleLinear
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012
    uses_shared_state = True

    # ------ injection

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        super()._pre_injection_hook(model, config, adapter_name)
        self.mocle_router = nn.ModuleDict()
        self._routing = ModelRouting(self._route, self._collapse)
        self._collapsed = CollapsedClusters()
        self._site_names = {}

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
            ConfigError: the targets match nothing, or something that cannot be adapted; the centroids do not fit; a
                name in `modules_to_save` or `parameters_to_save` is not of its kind; one of several adapters trains
                parameters in place.
            ClusterModelError: the centroids cannot be read.
        """
        config = self._config(adapter_name)
        # Everything that can go wrong is tried before the model is touched.
        sites = find_targets(model, config, self._check_target_module_exists)
        check_modules_to_save(model, config)
        self._check_alone(config)
        parameters = list(find_parameters(model, config))
        embedding = initial_embedding(config)
        words = embedding_dim(model) if config.router == "sentence" else None
        tokens = TokenRouting(config, sites) if config.router == "token" else None
        self._sites_with_gates = set() if tokens is None else tokens.with_gates
        gate = initial_gate(config, embedding)
        super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage, state_dict)
        config.sites = sites
        self._site_names[adapter_name] = sites
        self._parameter_names[adapter_name] = parameters
        for index, name in enumerate(sites):
            layer = cast(MocleLinear, model.get_submodule(name))
            layer.site_index[adapter_name] = None if config.router == "none" else index
            if tokens is not None:
                layer.token_routing[adapter_name] = self._routing.state.tokens[adapter_name] = tokens
        with init_empty_weights() if low_cpu_mem_usage else nullcontext():
            if words:
                router: Router = SentenceRouter(config, sites, words)
            else:
                router = build_router(config, len(sites), embedding, gate)
            self.mocle_router[adapter_name] = router.train(model.training)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self._sync_grad()
        self._sync_starts()

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
        config, has_gate = cast(MocleConfig, peft_config), current_key in self._sites_with_gates
        if isinstance(target, MocleLinear):
            target.update_layer(adapter_name, config, has_gate)
            return
        layer = MocleLinear(cast(nn.Linear, target), adapter_name, config, self._routing.state, has_gate)
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

    # ------ routing

    def _route(self, ids: Mapping[str, Any], rows: int | None) -> dict[str, Routing]:
        """The routing of a batch for every active adapter that is routed and not merged; see `Route`.

        The ids and the chosen experts travel to the host together: the only time that a forward waits for a GPU.
        """
        checked: dict[str, Tensor] = {}
        gates: dict[str, Gates] = {}
        routings: dict[str, Routing] = {}
        for adapter_name in self.active_adapters:
            router = self._router(adapter_name)
            if router.id_name is None:
                continue
            if isinstance(router, SentenceRouter):
                routings[adapter_name] = router.routing(self.model, ids[router.id_name], rows)
                continue
            if self._is_merged(adapter_name):
                self._routing.check_merged(adapter_name, ids[router.id_name], ids.get(CLUSTER_WEIGHTS))
                continue
            count = cast(int, self._config(adapter_name).num_clusters)
            checked[adapter_name], mixture = check_routing(router.id_name, ids, count, rows)
            # Clamped, because a GPU that is asked for a row that is not there stops without naming the id.
            gates[adapter_name] = router(checked[adapter_name].clamp(0, count - 1), router.training, mixture)
        if not gates:
            return routings
        on_host = copy_to_host([*(gate.expert for gate in gates.values()), *checked.values()])
        for adapter_name, experts, values in zip(gates, on_host, on_host[len(gates) :], strict=False):
            config, router = self._config(adapter_name), self._router(adapter_name)
            check_range(cast(str, router.id_name), values, cast(int, config.num_clusters))
            routings[adapter_name] = Routing(gates[adapter_name], config.gate_mode, config.universal_expert, experts)
        return routings

    def _collapse(self, ids: Mapping[str, Any], routings: Mapping[str, Routing]) -> dict[str, CollapsedRouting]:
        """The routings whose samples all have one cluster, as one pair a site; see `CollapsedClusters`."""
        collapsed = {}
        for adapter_name, routing in routings.items():
            router = self._router(adapter_name)
            if not self._config(adapter_name).has_gates_of_ids:
                continue
            values = distinct_mixtures(ids[cast(str, router.id_name)], ids.get(CLUSTER_WEIGHTS))
            if len(values) > 1 or router.training:
                continue
            sites = [
                cast(StackedExperts, cast(MocleLinear, self.model.get_submodule(name)).mocle_experts[adapter_name])
                for name in self._site_names[adapter_name]
            ]
            found = self._collapsed.collapse(adapter_name, values.pop(), routing, sites, router)
            if found is not None:
                collapsed[adapter_name] = found
        return collapsed

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The base model's `generate`, with `ROUTING_INPUTS`: one id or instruction per sample, routed once.

        Beams and returned sequences follow their sample.

        Samples that all have one cluster are answered with that cluster's plain LoRA, which is kept for the next call.

        Raises:
            RoutingError: the ids are missing, of a wrong dtype or length, or out of range.
        """
        ids = {name: kwargs.pop(name, None) for name in ROUTING_INPUTS}
        with self._routing.generating(ids, batch_size(args, kwargs), kwargs):
            return cast(Any, self.model).generate(*args, **kwargs)

    # ------ fused products

    @property
    def fused(self) -> bool:
        """Whether the experts are computed by fused products (True at first), or by autograd alone: the plain path.

        Both give the same up to rounding. Decoding a token always takes the plain path.
        """
        return self._routing.state.fused

    @fused.setter
    def fused(self, value: bool) -> None:
        self._routing.state.fused = value

    def fuse_mlps(self, names: MlpNames, within: str = "") -> int:
        """Let every gated MLP that holds a site run as one function in training (see `gated_mlp`).

        Args:
            names: what the parts of such an MLP are called.
            within: a part of the names of the modules in which they are looked for.

        Returns:
            How many there are. An MLP whose activation cannot be recomputed is left alone.
        """
        routed = {name: sites for name, sites in self._site_names.items() if self._config(name).router != "token"}
        owners = {site.rpartition(".")[0] for sites in routed.values() for site in sites}
        for owner in sorted(owner for owner in owners if within in owner):
            module = self.model.get_submodule(owner)
            children = dict(module.named_children())
            if set(children) == set(names.parts) and activation_name(children[names.activation]):
                self._put(owner, GatedMlp(module, names))
        self._sync_starts()
        return sum(isinstance(module, GatedMlp) for module in self.model.modules())

    def _put(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)

    # ------ merging one cluster into the base weights

    @contextmanager
    def _merging(self, adapter_names: list[str] | None, cluster: int | None) -> Iterator[None]:
        routings = {}
        for adapter_name in adapter_names or self.active_adapters:
            if not self._is_merged(adapter_name):
                routings[adapter_name] = self.cluster_routing(cluster, adapter_name)
                continue
            merged = self._routing.merged_clusters[adapter_name]
            if cluster not in (None, merged):
                raise RoutingError(
                    f"cluster {merged} of adapter {adapter_name!r} is merged already; "
                    f"call unmerge_adapter() before merging cluster {cluster}."
                )
        with self._routing.merging(cluster, routings):
            yield

    def merge_adapter(
        self, adapter_names: list[str] | None = None, safe_merge: bool = False, cluster: int | None = None
    ) -> None:
        """Add one cluster's weights to the base weights; `unmerge_adapter()` takes them out again.

        Raises:
            RoutingError: no cluster was given, there is no such cluster, or another one is merged already.
        """
        with self._merging(adapter_names, cluster):
            super().merge_adapter(adapter_names, safe_merge)

    def merge_and_unload(
        self,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
        cluster: int | None = None,
    ) -> nn.Module:
        """The plain model of one cluster. `cluster` is needed unless the router is "none", which takes none.

        Raises:
            RoutingError: no cluster was given, there is no such cluster, or one was given for router="none".
        """
        with self._merging(adapter_names, cluster):
            return super().merge_and_unload(progressbar, safe_merge, adapter_names)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(child, AuxiliaryTrainingWrapper):
            # A module of `modules_to_save`, unwrapped: PEFT would look for a `weight`, which a projector does not have.
            setattr(parent, child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        for name, module in list(self.model.named_modules()):
            if isinstance(module, GatedMlp):
                self._put(name, module.plain)
        model = super()._unload_and_optionally_merge(*args, **kwargs)  # type: ignore[func-returns-value]
        self._routing.start_at([])
        return model

    # ------ switching adapters

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_name, inference_mode)
        self._sync_grad()

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        super().set_requires_grad(adapter_names, requires_grad)
        self._sync_grad()

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        super()._enable_adapter_layers(enabled)
        self._routing.enabled = enabled
        self._sync_grad()

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self._train_in_place(adapter_name, False)
        del self.mocle_router[adapter_name], self._site_names[adapter_name], self._parameter_names[adapter_name]
        self._routing.state.clear()
        self._routing.state.tokens.pop(adapter_name, None)
        self._sync_starts()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._collapsed.forget()  # the model moves: what lies beside it would stay behind
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> Any:
        self._collapsed.forget()  # before training, which needs the memory; and after it
        return super().train(mode)

    def _sync_starts(self) -> None:
        """Routings start at the model, and at every module in it that holds all sites of a routed adapter."""
        starts = [self.model]
        for adapter_name, router in self.mocle_router.items():
            if cast(Router, router).id_name is not None:
                starts += callable_ancestors(self.model, self._site_names[adapter_name])
        self._routing.start_at(starts)

    def _sync_grad(self) -> None:
        """The router and parameters in place train exactly when the experts of their adapter do."""
        self._collapsed.forget()
        for adapter_name, router in self.mocle_router.items():
            experts = cast(StackedExperts, self._first_site(adapter_name).mocle_experts[adapter_name])
            trained = experts.experts_A.requires_grad
            cast(Router, router).train_parameters(trained)
            self._train_in_place(adapter_name, trained)
