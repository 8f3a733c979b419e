"""The low-rank products of a site."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llava_mocle.adapter.routing import Assignment


def grouped(x: Tensor, experts_A: Tensor, experts_B: Tensor, assignment: Assignment | None, scaling: float) -> Tensor:
    """The experts' output (B, ..., out): one product for all samples of a task expert, one for the universal expert.

    This is the plain path, by autograd alone. It is what decoding runs, and what `fused` has to agree with.

    Args:
        x: (B, ..., in).
        experts_A: (slots, r, in).
        experts_B: (slots, out, r).
        assignment: None for a plain LoRA: the only expert, with weight 1.

    Weights are not gathered per sample. Every slot of both stacks takes part in autograd, whatever the routing: an
    expert that no sample chose gets a gradient of zeros, the same on every rank.
    """
    slots_A, slots_B = experts_A.unbind(0), experts_B.unbind(0)
    if assignment is None:
        return _low_rank(x, slots_A[0], slots_B[0], scaling)
    output = _task_experts(x, slots_A, slots_B, assignment, scaling)
    if assignment.universal:
        output = output + _low_rank(x, slots_A[-1], slots_B[-1], scaling * assignment.weight[:, -1])
    return output


def _task_experts(
    x: Tensor, slots_A: tuple[Tensor, ...], slots_B: tuple[Tensor, ...], assignment: Assignment, scaling: float
) -> Tensor:
    samples, top_k = len(assignment.slots), assignment.top_k
    order, inverse, is_sorted, runs = assignment.plan.expert_order
    weight = scaling * assignment.weight[:, :top_k].flatten()
    rows = x
    if not is_sorted:
        weight = weight.index_select(0, order)
    if top_k > 1 or not is_sorted:
        rows = x.index_select(0, order // top_k)
    lengths = [length for _, length in runs]
    pieces = [
        _low_rank(part, slots_A[expert], slots_B[expert], part_weight)
        for (expert, _), part, part_weight in zip(runs, rows.split(lengths), weight.split(lengths), strict=True)
    ]
    output = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    if not is_sorted:
        output = output.index_select(0, inverse)
    if top_k > 1:
        output = output.unflatten(0, (samples, top_k)).sum(dim=1)
    return output


def _low_rank(x: Tensor, a: Tensor, b: Tensor, weight: Tensor | float) -> Tensor:
    """weight * b a x, for x (n, ..., in) and weight (n,) or a number; applied between a and b, where it is cheapest."""
    hidden = F.linear(x, a)
    if isinstance(weight, Tensor):
        weight = weight.reshape(-1, *[1] * (hidden.ndim - 1))
    return F.linear((hidden * weight).to(hidden.dtype), b)


@torch.no_grad()
def collapsed_pair(experts_A: Tensor, experts_B: Tensor, assignment: Assignment | None) -> tuple[Tensor, Tensor]:
    """The plain LoRA pair that equals a site for the single sample of `assignment`: A' (n r, in), B' (out, n r).

    n counts the mixed experts (the universal one included), so scaling stays the same with r' = n r and
    alpha' = n alpha. Half-precision weights come back as fp32, so that the product with the gate is not rounded.
    """
    dtype = torch.promote_types(experts_A.dtype, torch.float32)
    experts_A, experts_B = experts_A.to(dtype), experts_B.to(dtype)
    if assignment is None:
        return experts_A[0], experts_B[0]
    terms = list(zip(assignment.plan.table[0].tolist(), assignment.weight[0].to(dtype), strict=True))
    pair_A = torch.cat([experts_A[expert] for expert, _ in terms], dim=0)
    pair_B = torch.cat([weight * experts_B[expert] for expert, weight in terms], dim=1)
    return pair_A, pair_B
