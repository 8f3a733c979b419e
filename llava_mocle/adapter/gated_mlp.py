"""A gated MLP (SwiGLU, GeGLU) with its adapted linears as one node of autograd: the activation is computed again.

    y = W_down (act(W_gate x) * W_up x),  each W with the experts of its site

The plain modules keep x, W_gate x, act(W_gate x), W_up x and their product for the backward pass, and the rank-r hidden
states. This keeps x, W_gate x, W_up x and the hidden states.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llava_mocle.adapter.fused import Experts, choices
from llava_mocle.adapter.layer import MocleLinear

logger = logging.getLogger(__name__)

_aten = torch.ops.aten
# The activations that can be recomputed: the function, and the gradient of its input.
_ACTIVATIONS = {
    "silu": (F.silu, lambda gradient, x: _aten.silu_backward(gradient, x)),
    "gelu_tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda gradient, x: _aten.gelu_backward(gradient, x, approximate="tanh"),
    ),
}
# One adapted linear's part in the list of experts: experts_A, experts_B, weight, slots, table.
_PER_SITE = 5


@dataclass(frozen=True)
class MlpNames:
    """What the parts of a gated MLP are called in its module."""

    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    activation: str = "act_fn"

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """All of them."""
        return self.gate, self.up, self.down, self.activation


class GatedMlp(nn.Module):
    """Takes the place of a gated MLP in a model. Its parts stay what they are, under their names.

    Without a gradient, and where its linears cannot run as one function, it calls its parts one by one. Where that is
    something that a user may want to change, it says so once.

    Args:
        plain: the module whose place it takes; its forward is y above, and it has no other parts.
        names: what its parts are called.
    """

    def __init__(self, plain: nn.Module, names: MlpNames) -> None:
        super().__init__()
        self.names = names
        for name, part in plain.named_children():
            self.add_module(name, part)
        # In a tuple, so that its parameters are not counted twice.
        self._plain = (plain,)
        self.train(plain.training)

    @property
    def plain(self) -> nn.Module:
        """The module whose place this one takes."""
        return self._plain[0]

    def forward(self, x: Tensor) -> Tensor:
        sites = [getattr(self, name) for name in (self.names.gate, self.names.up, self.names.down)]
        activation = getattr(self, self.names.activation)
        if x.ndim != 3 or not torch.is_grad_enabled() or _runs_part_by_part(sites, x):
            gate, up, down = sites
            return down(activation(gate(x)) * up(x))
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        linears = [_frozen(site) for site in sites]
        weights = [linear.weight.to(dtype) for linear in linears]
        biases = [None if linear.bias is None else linear.bias.to(dtype) for linear in linears]
        experts: list[Tensor] = []
        adapted = [index for index, site in enumerate(sites) if isinstance(site, MocleLinear)]
        for index in adapted:
            stack, assignment = sites[index].active_experts, sites[index].active_assignment(len(x))
            experts += [stack.experts_A, stack.experts_B, *choices(x, assignment, stack.scaling)]
        name = cast(str, activation_name(activation))
        return cast(Tensor, _GatedMlp.apply(x.to(dtype).contiguous(), name, weights, biases, adapted, *experts))


def _frozen(site: nn.Module) -> Any:
    """The linear itself, without what adapts it."""
    return site.get_base_layer() if isinstance(site, MocleLinear) else site


@functools.cache
def _say_once(reason: str) -> None:
    logger.warning("gated MLPs are computed linear by linear, not as one function: %s", reason)


def _runs_part_by_part(sites: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether these linears cannot run as one function at this moment. Says once what a user may want to change."""
    adapted = [site for site in sites if isinstance(site, MocleLinear)]
    if not adapted or not all(site.is_fused for site in adapted):
        return True
    for linear in map(_frozen, sites):
        if type(linear) is not nn.Linear:
            _say_once(f"a frozen linear is a {type(linear).__name__}")
            return True
        if linear.weight.requires_grad:
            return True
    for site in adapted:
        if not torch.is_autocast_enabled(x.device.type) and site.active_experts.experts_A.dtype != x.dtype:
            return True  # experts kept wider than the model computes in are computed in their own dtype
        if site.training and isinstance(site.active_experts.dropout, nn.Dropout):
            _say_once("the experts have dropout (lora_dropout)")
            return True
    return False


def activation_name(module: nn.Module) -> str | None:
    """Which of the activations that can be recomputed this module is; None: none of them."""
    kinds = {"SiLU": "silu", "SiLUActivation": "silu", "GELUTanh": "gelu_tanh"}
    return kinds.get(type(module).__name__)


class _GatedMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, activation: str, weights: list[Tensor], biases: list[Tensor | None],
        adapted: list[int], *experts: Tensor,
    ) -> Tensor:  # fmt: skip
        output, gate, up, *hiddens = torch.ops.llava_mocle.gated_mlp(
            x, activation, weights, biases, adapted, list(experts)
        )
        ctx.save_for_backward(x, gate, up, *weights, *hiddens, *experts)
        ctx.activation, ctx.adapted = activation, adapted
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, up, *rest = ctx.saved_tensors
        count = len(ctx.adapted)
        weights, hiddens, experts = rest[:3], rest[3 : 3 + count], rest[3 + count :]
        of_x, *of_experts = torch.ops.llava_mocle.gated_mlp_backward(
            gradient.contiguous(), x, gate, up, ctx.activation, weights, hiddens, ctx.adapted, experts
        )
        gradients: list[Tensor | None] = []
        for site in range(count):
            gradients += [*of_experts[3 * site : 3 * site + 3], None, None]
        return of_x, None, None, None, None, *gradients


@torch.library.custom_op("llava_mocle::gated_mlp", mutates_args=())
def _gated_mlp(
    x: Tensor,
    activation: str,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    adapted: Sequence[int],
    experts: Sequence[Tensor],
) -> list[Tensor]:
    """The output, W_gate x, W_up x (with their experts), and the hidden states of each adapted linear in its order."""
    sites = _sites(x, adapted, experts)
    hiddens: dict[int, Tensor] = {}

    def linear(index: int, inputs: Tensor) -> Tensor:
        out = F.linear(inputs, weights[index], biases[index])
        if index in sites:
            hiddens[index] = sites[index].add_to(out, inputs)
        return out

    gate, up = linear(0, x), linear(1, x)
    output = linear(2, _ACTIVATIONS[activation][0](gate).mul_(up))
    return [output, gate, up, *(hiddens[index] for index in adapted)]


@torch.library.custom_op("llava_mocle::gated_mlp_backward", mutates_args=())
def _gated_mlp_backward(
    gradient: Tensor,
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    activation: str,
    weights: Sequence[Tensor],
    hiddens: Sequence[Tensor],
    adapted: Sequence[int],
    experts: Sequence[Tensor],
) -> list[Tensor]:
    """The gradients of x and, for each adapted linear in its order, of experts_A, experts_B and the weights."""
    sites, hidden = _sites(x, adapted, experts), dict(zip(adapted, hiddens, strict=True))
    function, derivative = _ACTIVATIONS[activation]
    of_experts: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def backward(index: int, change: Tensor, inputs: Tensor, of_inputs: Tensor | None = None) -> Tensor:
        """Add to `of_inputs` what a change of a linear's output makes of the gradient of its inputs."""
        flat = change.view(-1, change.shape[-1])
        if of_inputs is None:
            of_inputs = torch.mm(flat, weights[index]).view_as(inputs)
        else:
            of_inputs.view(-1, of_inputs.shape[-1]).addmm_(flat, weights[index])
        if index in sites:
            of_experts[index] = sites[index].backward(change, inputs, hidden[index], of_inputs)
        return of_inputs

    activated = function(gate)
    product = activated * up
    of_product = backward(2, gradient, product)
    del product
    of_up = activated.mul_(of_product)
    of_gate = derivative(of_product.mul_(up), gate)
    of_x = backward(0, of_gate, x)
    of_x = backward(1, of_up, x, of_x)
    return [of_x, *(part for index in adapted for part in of_experts[index])]


@_gated_mlp.register_fake
def _(x, activation, weights, biases, adapted, experts):  # type: ignore[no-untyped-def]
    wide = x.new_empty(*x.shape[:2], weights[0].shape[0])
    hiddens = [
        x.new_empty(*x.shape[:2], experts[at + 2].shape[1] * experts[at].shape[1])
        for at in range(0, len(experts), _PER_SITE)
    ]
    return [x.new_empty(*x.shape[:2], weights[2].shape[0]), wide, torch.empty_like(wide), *hiddens]


@_gated_mlp_backward.register_fake
def _(gradient, x, gate, up, activation, weights, hiddens, adapted, experts):  # type: ignore[no-untyped-def]
    starts = range(0, len(experts), _PER_SITE)
    return [torch.empty_like(part) for part in [x, *(part for at in starts for part in experts[at : at + 3])]]


def _sites(x: Tensor, adapted: Sequence[int], experts: Sequence[Tensor]) -> dict[int, Experts]:
    """The experts of the adapted linears, by the linear's number."""
    return {
        index: Experts(x, *experts[_PER_SITE * place : _PER_SITE * (place + 1)]) for place, index in enumerate(adapted)
    }
