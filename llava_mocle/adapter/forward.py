"""The root's part in a forward pass: take the ids out of the call, route once for all sites, hand over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.generation import Generation, batch_size, expansion
from llava_mocle.adapter.layer import MocleLinear
from llava_mocle.adapter.router import Router, check_ids
from llava_mocle.adapter.routing import Routing, RoutingState
from llava_mocle.errors import ConfigError, RoutingError

# What `forward` and `generate` take besides the base model's own inputs.
ROUTING_INPUTS = ("cluster_ids", "dataset_ids")


class RootForward:
    """Mixin of `MocleModel`: hooks around the base model's forward, and `generate`."""

    if TYPE_CHECKING:
        model: nn.Module
        active_adapters: list[str]
        _routing: RoutingState
        _generation: Generation | None
        _adapters_enabled: bool
        _merged_cluster: dict[str, int | None]

        def _router(self, adapter_name: str) -> Router: ...
        def _config(self, adapter_name: str) -> MocleConfig: ...
        def _first_site(self, adapter_name: str) -> MocleLinear: ...

    def _before_forward(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Runs before every forward of the base model, whichever way it was called: takes the ids out, and routes."""
        if module is not self.model:
            raise ConfigError(
                "torch.nn.DataParallel cannot run MoCLE, as its replicas share one routing; start one process per "
                "GPU (torchrun or accelerate launch), or make a single GPU visible."
            )
        kwargs = dict(kwargs)
        ids = {name: kwargs.pop(name, None) for name in ROUTING_INPUTS}
        if self._adapters_enabled:
            rows = batch_size(args, kwargs)
            if self._generation is not None and all(value is None for value in ids.values()):
                self._routing.start(self._generation.routings(rows))
            else:
                self._routing.start(self._route(ids, rows))
        return args, kwargs

    def _after_forward(self, *_: Any) -> None:
        self._routing.finish()

    def _route(self, ids: dict[str, Any], rows: int | None) -> dict[str, Routing]:
        routings = {}
        for adapter_name in self.active_adapters:
            router = self._router(adapter_name)
            if router.id_name is None:
                continue
            given = ids[router.id_name]
            if adapter_name in self._first_site(adapter_name).merged_adapters:
                self._check_merged(adapter_name, router.id_name, given)
                continue
            config = self._config(adapter_name)
            checked = check_ids(router.id_name, given, cast(int, config.num_clusters), rows)
            gates = router(checked, noisy=router.training)
            routings[adapter_name] = Routing(gates, config.gate_mode, config.universal_expert)
        return routings

    def _check_merged(self, adapter_name: str, id_name: str, ids: Any) -> None:
        cluster = self._merged_cluster[adapter_name]
        if ids is not None and any(value != cluster for value in torch.as_tensor(ids).flatten().tolist()):
            raise RoutingError(
                f"cluster {cluster} of adapter {adapter_name!r} is merged into the weights, but {id_name} asks for "
                "others; call unmerge_adapter() first."
            )

    def generate(self, *args: Any, cluster_ids: Any = None, dataset_ids: Any = None, **kwargs: Any) -> Any:
        """The base model's `generate`, with one id per sample; beams and returned sequences follow their sample.

        Raises:
            RoutingError: the ids are missing, of a wrong dtype or length, or out of range.
        """
        if self._adapters_enabled:
            ids = {"cluster_ids": cluster_ids, "dataset_ids": dataset_ids}
            with torch.no_grad():
                routings = self._route(ids, batch_size(args, kwargs))
            if routings:
                factor = expansion(kwargs, getattr(self.model, "generation_config", None))
                self._generation = Generation(routings, factor)
        try:
            return cast(Any, self.model).generate(*args, **kwargs)
        finally:
            self._generation = None
            self._routing.clear()
