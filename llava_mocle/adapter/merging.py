"""Merging one cluster of an adapter into the base weights, and taking it out again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from llava_mocle.adapter.layer import MocleLinear
from llava_mocle.adapter.routing import Routing, RoutingState
from llava_mocle.errors import RoutingError


class Merging(BaseTuner):
    """Mixin of `MocleModel`: PEFT's merging methods, with a cluster."""

    if TYPE_CHECKING:
        _routing: RoutingState
        _merged_cluster: dict[str, int | None]
        _hook_handles: list[Any]

        def cluster_routing(self, cluster: int | None, adapter_name: str = "default") -> Routing | None: ...
        def _first_site(self, adapter_name: str) -> MocleLinear: ...

    @contextmanager
    def _merging(self, adapter_names: list[str] | None, cluster: int | None) -> Iterator[None]:
        for adapter_name in adapter_names or self.active_adapters:
            if adapter_name in self._first_site(adapter_name).merged_adapters:
                if cluster not in (None, self._merged_cluster[adapter_name]):
                    raise RoutingError(
                        f"cluster {self._merged_cluster[adapter_name]} of adapter {adapter_name!r} is merged already; "
                        f"call unmerge_adapter() before merging cluster {cluster}."
                    )
                continue
            self._routing.merging[adapter_name] = self.cluster_routing(cluster, adapter_name)
            self._merged_cluster[adapter_name] = cluster
        try:
            yield
        finally:
            self._routing.merging = {}

    def merge_adapter(
        self, adapter_names: list[str] | None = None, safe_merge: bool = False, cluster: int | None = None
    ) -> None:
        """Add one cluster's weights into the base weights; `unmerge_adapter()` takes them out again."""
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

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        model = super()._unload_and_optionally_merge(*args, **kwargs)  # type: ignore[func-returns-value]
        while self._hook_handles:
            self._hook_handles.pop().remove()
        return model
