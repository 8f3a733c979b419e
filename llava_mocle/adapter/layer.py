"""MocleLinear: a frozen linear with a stack of low-rank experts beside it."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from llava_mocle.adapter.collapsed import Pair
from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.fused import fused
from llava_mocle.adapter.model_routing import RoutingState
from llava_mocle.adapter.product import collapsed_pair, grouped
from llava_mocle.adapter.routing import Assignment
from llava_mocle.adapter.token_gates import TokenGate, TokenRouting, TokenWeights, per_token
from llava_mocle.errors import ConfigError, RoutingError


class StackedExperts(nn.Module):
    """All experts of one site in two parameters, the universal expert in the last slot.

    They are stacked because an expert in a module of its own gets no gradient in a step whose samples do not choose
    it. The ranks then disagree about what to reduce, which is silently wrong under ZeRO-2 and a crash under ZeRO-3.

    Parameters:
        experts_A: (slots, r, in_features), each slot drawn as in PEFT's LoRA.
        experts_B: (slots, out_features, r), zero at the start.
    """

    def __init__(self, config: MocleConfig, in_features: int, out_features: int) -> None:
        super().__init__()
        self.scaling = config.scaling
        self.dropout = nn.Dropout(config.lora_dropout) if config.lora_dropout > 0 else nn.Identity()
        self.experts_A = nn.Parameter(torch.empty(config.num_slots, config.r, in_features))
        self.experts_B = nn.Parameter(torch.empty(config.num_slots, out_features, config.r))
        self._reset(config.init_lora_weights)

    @torch.no_grad()
    def _reset(self, zero_B: bool) -> None:
        # Slot by slot, because the fan-in is that of one expert, not of the stack.
        for slot in self.experts_A:
            nn.init.kaiming_uniform_(slot, a=math.sqrt(5))
        for slot in self.experts_B:
            if zero_B:
                nn.init.zeros_(slot)
            else:
                nn.init.kaiming_uniform_(slot, a=math.sqrt(5))

    def forward(
        self,
        x: Tensor,
        assignment: Assignment | TokenWeights | None,
        base: Tensor,
        cast_input: bool = True,
        fuse: bool = True,
    ) -> Tensor:
        """base (B, ..., out) + the experts' contribution for x (B, ..., in); see `product`, `fused`, `token_gates`.

        Args:
            base: the frozen linear's output. The fused product writes over it.
            cast_input: compute in the experts' dtype where autocast does not say another one.
            fuse: use the fused product where it is as exact as the plain one.
        """
        if isinstance(assignment, TokenWeights):
            x = x.to(self.experts_A.dtype) if cast_input else x
            weight = assignment.weight
            return base + per_token(self.dropout(x), self.experts_A, self.experts_B, weight, self.scaling)
        # A single token (decoding) is cheapest in the plain way. Where the experts are kept in a wider dtype than the
        # model computes in, the plain way computes in theirs.
        narrow = torch.is_autocast_enabled(x.device.type) or self.experts_A.dtype == base.dtype
        if fuse and narrow and x.ndim > 2 and x.shape[1] > 1:
            return fused(base, self.dropout(x), self.experts_A, self.experts_B, assignment, self.scaling)
        if cast_input:
            x = x.to(self.experts_A.dtype)
        return base + grouped(self.dropout(x), self.experts_A, self.experts_B, assignment, self.scaling)


class MocleLinear(nn.Module, BaseTunerLayer):
    """y = W0 x + (experts chosen for each sample), one site of a MoCLE adapter.

    The input is (B, in) or (B, T, in); its first dimension is the sample. The model's routing says which experts a
    sample uses (see `RoutingState`).
    """

    adapter_layer_names = ("mocle_experts", "mocle_gate")
    other_param_names = ("scaling", "site_index", "token_routing")

    def __init__(
        self,
        base_layer: nn.Linear,
        adapter_name: str,
        config: MocleConfig,
        state: RoutingState,
        has_gate: bool = False,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features = base_layer.in_features
        self.out_features = base_layer.out_features
        self.mocle_experts = nn.ModuleDict()
        self.mocle_gate = nn.ModuleDict()
        self.token_routing: dict[str, TokenRouting] = {}
        self.scaling: dict[str, float] = {}
        self.site_index: dict[str, int | None] = {}
        self.routing_state = state
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._merged_assignments: dict[str, Assignment | None] = {}
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, has_gate)

    def update_layer(self, adapter_name: str, config: MocleConfig, has_gate: bool = False) -> None:
        """Add the experts of an adapter. The model sets `site_index` and `token_routing` once it knows all sites.

        Args:
            has_gate: whether a gate of the token router stands here.
        """
        self.scaling[adapter_name] = config.scaling
        self.site_index[adapter_name] = None
        self.mocle_experts[adapter_name] = StackedExperts(config, self.in_features, self.out_features)
        if has_gate:
            self.mocle_gate[adapter_name] = TokenGate(config, self.in_features)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _assignment(self, adapter_name: str, rows: int) -> Assignment | Pair | None:
        site = self.site_index[adapter_name]
        return None if site is None else self.routing_state.assignment(adapter_name, site, rows)

    def _token_weights(self, adapter_name: str, x: Tensor) -> TokenWeights:
        gates = dict(self.mocle_gate.items())
        site = cast(int, self.site_index[adapter_name])
        return self.token_routing[adapter_name].choose(site, cast("TokenGate | None", gates.get(adapter_name)), x)

    # ------ for a function that computes several sites

    @property
    def is_fused(self) -> bool:
        """Whether exactly one adapter takes part in the forward, and by a fused product."""
        alone = len(self.active_adapters) == 1 and self.active_adapters[0] in self.mocle_experts
        alone = alone and self.active_adapters[0] not in self.token_routing
        return alone and self.routing_state.fused and not self.disable_adapters and not self.merged

    @property
    def active_experts(self) -> StackedExperts:
        """The experts of the active adapter."""
        return cast(StackedExperts, self.mocle_experts[self.active_adapters[0]])

    def active_assignment(self, rows: int) -> Assignment | None:
        """The assignment of the active adapter for an input of `rows` samples; None for a plain LoRA.

        Ask for it where there are gradients: only without them `generate` has a pair in its place.
        """
        return cast("Assignment | None", self._assignment(self.active_adapters[0], rows))

    # ------ its own forward

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        result = self.base_layer(x, *args, **kwargs)
        if self.merged:
            return result
        dtype = result.dtype
        cast_input = getattr(self, "cast_input_dtype_enabled", True)
        for adapter_name in self.active_adapters:
            if adapter_name in self.mocle_experts:
                assignment: Assignment | TokenWeights | Pair | None
                if adapter_name in self.token_routing:
                    assignment = self._token_weights(adapter_name, x)
                else:
                    assignment = self._assignment(adapter_name, x.shape[0])
                if isinstance(assignment, Pair):
                    result = result + assignment(x, cast_input)
                    continue
                experts = self.mocle_experts[adapter_name]
                result = experts(x, assignment, result, cast_input, self.routing_state.fused)
        return result.to(dtype)

    def get_delta_weight(self, adapter_name: str, assignment: Assignment | None) -> Tensor:
        """scaling * B' A' (out, in), in fp32 or better."""
        experts = cast(StackedExperts, self.mocle_experts[adapter_name])
        pair_A, pair_B = collapsed_pair(experts.experts_A, experts.experts_B, assignment)
        return self.scaling[adapter_name] * (pair_B @ pair_A)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the active (or named) adapters into the base weight, for the cluster that the model is merging.

        Raises:
            RoutingError: no cluster was given for a routed adapter.
            ConfigError: the base weight is quantized.
            ValueError: `safe_merge` found weights that are not finite.
        """
        for adapter_name in check_adapters_to_merge(self, adapter_names):
            if adapter_name not in self.mocle_experts:
                continue
            site, assignment = self.site_index[adapter_name], None
            if site is not None:
                routing = self.routing_state.merging.get(adapter_name)
                if routing is None:
                    raise RoutingError("merging folds one cluster's gates in: merge through the model, with cluster=c.")
                assignment = routing.site(site)
            self._add_to_weight(self.get_delta_weight(adapter_name, assignment), adapter_name, safe_merge)
            self._merged_assignments[adapter_name] = assignment
            self.merged_adapters.append(adapter_name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take every merged adapter out of the base weight again."""
        while self.merged_adapters:
            adapter_name = self.merged_adapters.pop()
            delta = self.get_delta_weight(adapter_name, self._merged_assignments.pop(adapter_name))
            self._add_to_weight(-delta, adapter_name, safe=False)

    def _add_to_weight(self, delta: Tensor, adapter_name: str, safe: bool) -> None:
        weight = cast(nn.Linear, self.get_base_layer()).weight
        # bitsandbytes may also pack quantized values into a floating-point dtype, in another shape.
        if not weight.dtype.is_floating_point or weight.shape != delta.shape:
            raise ConfigError(
                f"adapter {adapter_name!r} cannot be merged into a quantized weight ({weight.dtype}), which cannot "
                "hold the sum. Load the base in 16 or 32 bit (bits=16, no --load-4bit or --load-8bit) and merge "
                "into that, or into base.dequantize(), whose values are those that the adapter was trained on."
            )
        merged = (weight.data.to(delta.dtype) + delta.to(weight.device)).to(weight.dtype)
        if safe and not merged.isfinite().all():
            raise ValueError(f"merging adapter {adapter_name!r} would give weights that are not finite.")
        weight.data = merged

    def __repr__(self) -> str:
        return "mocle." + super().__repr__()
