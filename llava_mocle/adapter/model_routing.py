"""The routing of one model: where it starts, how long it lasts, and how the sites get their part of it."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from llava_mocle.adapter.collapsed import CollapsedRouting, Pair
from llava_mocle.adapter.generation import AnyRouting, Generation, batch_size
from llava_mocle.adapter.routing import Assignment, Routing
from llava_mocle.adapter.token_gates import TokenRouting
from llava_mocle.errors import ConfigError, RoutingError

# What `forward` and `generate` take besides the base model's own inputs.
ROUTING_INPUTS = ("cluster_ids", "dataset_ids", "instruction_ids")

# A function that computes the routing of each active adapter, by the adapter's name. It gets the value of each routing
# input (None: it was not passed) and the number of samples (None: it is not known).
Route = Callable[[Mapping[str, Any], int | None], dict[str, Routing]]
# A function that collapses, of the same values and their routings, those whose samples all have one cluster.
Collapse = Callable[[Mapping[str, Any], Mapping[str, Routing]], dict[str, CollapsedRouting]]


def callable_ancestors(model: nn.Module, sites: Sequence[str]) -> list[nn.Module]:
    """The modules around all of these sites, `model` itself first, then inwards, without containers such as ModuleList.

    One of them is called before any site is, also where `model.generate` calls the `generate` of an inner language
    model and passes its own forward by.

    Args:
        sites: names of modules in `model`, at least one.
    """
    levels = zip(*(site.split(".")[:-1] for site in sites), strict=False)
    path = [model]
    for name, *_ in takewhile(lambda names: len(set(names)) == 1, levels):
        path.append(getattr(path[-1], name))
    return [module for module in path if type(module).forward is not nn.Module.forward]


class ModelRouting:
    """Routes every call of one model: a forward, a whole `generate` call, or a cluster that is merged.

    A routing starts when a module that was given to `start_at` is called. Such a module may lie inside another. During
    a forward of the outer module, a call of the inner one keeps the outer routing, unless the call brings ids itself.

    Args:
        route: computes the routing of a batch.
        collapse: what becomes of it in `generate`.

    Attributes:
        state: the current routing, as the sites read it.
        enabled: False while the adapters are disabled. The routing inputs are then taken and ignored.
        merged_clusters: the cluster that each adapter was last merged with, by the adapter's name.
    """

    def __init__(self, route: Route, collapse: Collapse = lambda _ids, _routings: {}) -> None:
        self.state = RoutingState()
        self.enabled = True
        self.merged_clusters: dict[str, int | None] = {}
        self._route = route
        self._collapse = collapse
        self._generation: Generation | None = None
        self._generates = False
        self._starts: dict[nn.Module, tuple[RemovableHandle, ...]] = {}
        self._started_at: nn.Module | None = None

    # ------ forwards

    def start_at(self, modules: Sequence[nn.Module]) -> None:
        """Start a routing at every call of these modules, which take the routing inputs as keywords, and of no others.

        Args:
            modules: the whole base model first. None at all: nothing starts a routing any more.
        """
        for module in self._starts.keys() - set(modules):
            for handle in self._starts.pop(module):
                handle.remove()
        for module in modules:
            if module not in self._starts:
                self._starts[module] = (
                    module.register_forward_pre_hook(self._before_forward, with_kwargs=True),
                    module.register_forward_hook(self._after_forward, always_call=True),
                )

    def _before_forward(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if module not in self._starts:
            raise ConfigError(
                "torch.nn.DataParallel cannot run MoCLE, as its replicas share one routing; start one process per "
                "GPU (torchrun or accelerate launch), or make a single GPU visible."
            )
        kwargs = dict(kwargs)
        ids = {name: kwargs.pop(name, None) for name in ROUTING_INPUTS}
        without_ids = all(value is None for value in ids.values())
        if self.enabled and not (without_ids and self._is_inside_another(module)):
            rows = batch_size(args, kwargs)
            routings: Mapping[str, AnyRouting]
            if self._generation is not None and without_ids:
                routings = self._generation.routings(rows, getattr(module, "generation_config", None))
            else:
                routings = self._route(ids, rows)
            self.state.start(routings, _padding(module, args, kwargs), recording=not self._generates)
            self._started_at = module
        return args, kwargs

    def _after_forward(self, module: nn.Module, *_: Any) -> None:
        if module is self._started_at:
            self._started_at = None
            self.state.finish()

    def _is_inside_another(self, module: nn.Module) -> bool:
        """Whether a call of an inner module is part of a running forward, or of its recomputation in backward."""
        return module is not next(iter(self._starts)) and (_in_backward() or self._started_at not in (None, module))

    # ------ generate

    @contextmanager
    def generating(self, ids: Mapping[str, Any], rows: int | None, options: Mapping[str, Any]) -> Iterator[None]:
        """Route `rows` samples once, and keep that routing for every forward inside the context.

        Args:
            options: the keywords of the `generate` call, which say how often it repeats every sample.
        """
        if self.enabled:
            with torch.no_grad():
                routings = self._route(ids, rows)
                collapsed = self._collapse(ids, routings)
            if routings:
                self._generation = Generation(routings, options, collapsed)
        self._started_at = None
        self._generates = True
        try:
            yield
        finally:
            self._generation = None
            self._generates = False
            self.state.clear()

    # ------ merged clusters

    @contextmanager
    def merging(self, cluster: int | None, routings: dict[str, Routing | None]) -> Iterator[None]:
        """Let the sites of these adapters merge `cluster` inside the context, with the routing of one sample of it."""
        self.merged_clusters.update(dict.fromkeys(routings, cluster))
        self.state.merging = routings
        try:
            yield
        finally:
            self.state.merging = {}

    def check_merged(self, adapter_name: str, id_name: str, ids: Any) -> None:
        """Refuse ids of any other cluster than the one that is merged; no ids at all are fine.

        Raises:
            RoutingError: naming the cluster that is merged.
        """
        cluster = self.merged_clusters[adapter_name]
        if ids is not None and any(value != cluster for value in torch.as_tensor(ids).flatten().tolist()):
            raise RoutingError(
                f"cluster {cluster} of adapter {adapter_name!r} is merged into the weights, but {id_name} asks for "
                "others; call unmerge_adapter() first."
            )


def _padding(module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> Tensor | None:
    """The mask (B, T) of a call's tokens that are no padding; None if it has none."""
    given = inspect.signature(module.forward).bind_partial(*args).arguments if args else {}
    mask = kwargs.get("attention_mask", given.get("attention_mask"))
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


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
    """Whether autograd is running: a module that is called now is being recomputed by gradient checkpointing."""
    return torch._C._current_graph_task_id() != -1


class RoutingState:
    """Hands the current routing to the sites, from the start of a forward until the next one starts.

    The routing stays after the forward, because gradient checkpointing recomputes the sites during backward. A site
    that is called at any other time outside a forward gets an error, never an earlier batch's routing.

    Attributes:
        routings: the current routing of each routed adapter, by the adapter's name.
        merging: while adapters are being merged, the routing of the cluster that goes into the weights.
        fused: whether the sites may use fused products. False: they take the plain path, by autograd alone.
        tokens: the token routers, by the adapter's name. Their sites decide for themselves.
    """

    def __init__(self) -> None:
        self.fused = True
        self.routings: Mapping[str, AnyRouting] = {}
        self.merging: dict[str, Routing | None] = {}
        self.tokens: dict[str, TokenRouting] = {}
        self._running = False
        self._current: list[weakref.ref[_Pending]] = []
        self._replaced: list[weakref.ref[_Pending]] = []

    def start(self, routings: Mapping[str, AnyRouting], padding: Tensor | None = None, recording: bool = True) -> None:
        """Take over the routing of a forward that begins now.

        Args:
            padding, recording: for the token routers, see `TokenRouting.start`.
        """
        for tokens in self.tokens.values():
            tokens.start(padding, recording)
        self.routings = routings
        self._running = True
        self._replaced = [ref for ref in self._replaced + self._current if _is_pending(ref)]
        self._current = []
        for routing in routings.values():
            if routing.gates.gate.requires_grad:
                pending = _Pending()
                # The graph owns the hook, so `pending` dies with the graph, whether backward ran or not.
                routing.gates.gate.register_hook(pending.mark)
                self._current.append(weakref.ref(pending))

    def finish(self) -> None:
        """The forward is over. Its routing is kept for recomputation only."""
        self._running = False
        for tokens in self.tokens.values():
            tokens.finish()

    def clear(self) -> None:
        """Forget the routing."""
        self.routings = {}
        self._running = False
        for tokens in self.tokens.values():
            tokens.forget()

    def assignment(self, adapter_name: str, site: int, rows: int) -> Assignment | Pair:
        """The assignment of a site for an input of `rows` samples; a pair in `generate` where all have one cluster.

        Raises:
            RoutingError: no forward of the whole model is running, the routing belongs to a later forward, or the
                number of rows is not the number of routed samples.
        """
        routing = self.routings.get(adapter_name)
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

    def __reduce__(self) -> tuple:
        # A copy is empty: tensors of a live autograd graph cannot be copied, and a copied model has seen no forward.
        return RoutingState, (), {"tokens": self.tokens}
