"""The experts of one site as two operations, forward and backward, that save x and the rank-r hidden states alone.

`fused` gives what `product.grouped` gives, up to rounding. Autograd sees one node, and `torch.compile` sees opaque
operators. The task experts and the universal expert of a sample are one product of rank C * r.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llava_mocle.adapter.kernels import loops
from llava_mocle.adapter.kernels.choice import segments_for
from llava_mocle.adapter.routing import Assignment


class Experts:
    """A site's experts, and how a batch of B samples mixes them with C choices each.

    On a CPU the products are loops over runs of samples. On a GPU the fastest of several kernels computes them, none of
    which needs to know the choices on the CPU.

    Args:
        x: (B, T, ...), whose device and dtype are those to compute with.
        experts_A: (slots, r, in).
        experts_B: (slots, out, r).
        weight: (B, C), with the adapter's scaling in it.
        slots: (B, C), the slot of each choice.
        table: `slots` on the CPU.
    """

    def __init__(
        self, x: Tensor, experts_A: Tensor, experts_B: Tensor, weight: Tensor, slots: Tensor, table: Tensor
    ) -> None:
        self.down, self.up = experts_A, experts_B.transpose(1, 2)
        self.weight, self.slots = weight, slots
        if x.is_cuda:
            like_input = x[..., :1].expand(-1, -1, experts_A.shape[2])
            self.way = segments_for(like_input, experts_A, experts_B, slots)
        else:
            self.way = loops.segments_of(table, experts_A.shape[1])

    def add_to(self, out: Tensor, x: Tensor) -> Tensor:
        """Add the experts' output for x (B, T, in) to `out` (B, T, out), in place.

        Returns:
            The hidden states (B, T, C * r) that `backward` needs.
        """
        hidden = self.way.project(x, self.down, self.slots)
        self.way.combine(self._weighted(hidden), self.up, self.slots, out)
        return hidden

    def backward(self, gradient: Tensor, x: Tensor, hidden: Tensor, of_x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of both stacks and of `weight`.

        Args:
            gradient: (B, T, out), of the output.
            x: (B, T, in), the input.
            hidden: what `add_to` returned.
            of_x: (B, T, in), which the gradient of x is added to, in place.
        """
        change = self.way.project(gradient, self.up, self.slots)
        per_choice = (hidden.to(self.weight.dtype) * change.to(self.weight.dtype)).view(
            *hidden.shape[:2], self.weight.shape[1], -1
        )
        weight_gradient = per_choice.sum(dim=(1, 3))
        del per_choice
        gradient_A, gradient_B = torch.empty_like(self.down), torch.empty_like(self.up.transpose(1, 2))
        self.way.outer(self._weighted(hidden), gradient, self.slots, gradient_B.transpose(1, 2))
        change = self._weighted(change)
        self.way.outer(change, x, self.slots, gradient_A)
        self.way.combine(change, self.down, self.slots, of_x)
        return gradient_A, gradient_B, weight_gradient

    def _weighted(self, hidden: Tensor) -> Tensor:
        """Every choice's columns times its weight."""
        parts = hidden.view(*hidden.shape[:2], self.weight.shape[1], -1)
        return (parts * self.weight[:, None, :, None]).to(hidden.dtype).view_as(hidden)


@torch.library.custom_op("llava_mocle::experts", mutates_args=("out",))
def _experts(
    out: Tensor, x: Tensor, experts_A: Tensor, experts_B: Tensor, weight: Tensor, slots: Tensor, table: Tensor
) -> Tensor:
    return Experts(x, experts_A, experts_B, weight, slots, table).add_to(out, x)


@_experts.register_fake
def _(out, x, experts_A, experts_B, weight, slots, table):  # type: ignore[no-untyped-def]
    return x.new_empty(*x.shape[:2], slots.shape[1] * experts_A.shape[1])


@torch.library.custom_op("llava_mocle::experts_backward", mutates_args=())
def _experts_backward(
    gradient: Tensor,
    x: Tensor,
    hidden: Tensor,
    experts_A: Tensor,
    experts_B: Tensor,
    weight: Tensor,
    slots: Tensor,
    table: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_x = torch.zeros_like(x)
    experts = Experts(x, experts_A, experts_B, weight, slots, table)
    return of_x, *experts.backward(gradient, x, hidden, of_x)


@_experts_backward.register_fake
def _(gradient, x, hidden, experts_A, experts_B, weight, slots, table):  # type: ignore[no-untyped-def]
    return torch.empty_like(x), torch.empty_like(experts_A), torch.empty_like(experts_B), torch.empty_like(weight)


class _AddExperts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, base: Tensor, x: Tensor, experts_A: Tensor, experts_B: Tensor, weight: Tensor, slots: Tensor,
        table: Tensor,
    ) -> Tensor:  # fmt: skip
        if torch.compiler.is_compiling() or base._is_view() or not base.is_contiguous():
            # Autograd functions that write into their inputs cannot be compiled. What writes into a view makes autograd
            # copy gradients, and is refused where another such function made the view: a quantized linear with a bias.
            out = base.clone(memory_format=torch.contiguous_format)
        else:
            out = base
            ctx.mark_dirty(base)
        hidden = torch.ops.llava_mocle.experts(out, x, experts_A, experts_B, weight, slots, table)
        ctx.save_for_backward(x, hidden, experts_A, experts_B, weight, slots, table)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients = torch.ops.llava_mocle.experts_backward(gradient.contiguous(), *ctx.saved_tensors)
        return gradient, *gradients, None, None


def fused(
    base: Tensor, x: Tensor, experts_A: Tensor, experts_B: Tensor, assignment: Assignment | None, scaling: float
) -> Tensor:
    """base + the experts' output, in the dtype of `base`.

    Args:
        base: (B, ..., out), the frozen linear's output, which is written over. Products are computed in its dtype.
        x: (B, ..., in).
        experts_A: (slots, r, in).
        experts_B: (slots, out, r).
        assignment: None for a plain LoRA: the only expert, with weight 1.

    Raises:
        RuntimeError: in a second backward through the first one, which is not built.
    """
    weight, slots, table = choices(x, assignment, scaling)
    x = x.to(base.dtype).contiguous()
    if x.ndim == 3:
        return cast(Tensor, _AddExperts.apply(base, x, experts_A, experts_B, weight, slots, table))
    # A view of the base is copied, so only other shapes are viewed.
    flat, flat_base = (part.reshape(len(x), -1, part.shape[-1]) for part in (x, base))
    out = _AddExperts.apply(flat_base, flat, experts_A, experts_B, weight, slots, table)
    return cast(Tensor, out).view(base.shape)


def choices(x: Tensor, assignment: Assignment | None, scaling: float) -> tuple[Tensor, Tensor, Tensor]:
    """(weight with the scaling in it, slots, slots on the CPU), each (B, C), for x (B, ...)."""
    if assignment is None:
        table = torch.zeros(len(x), 1, dtype=torch.long)
        weight = torch.full((len(x), 1), scaling, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        return weight, table if x.device.type == "cpu" else torch.zeros_like(table, device=x.device), table
    return assignment.weight * scaling, assignment.slots, assignment.plan.table
