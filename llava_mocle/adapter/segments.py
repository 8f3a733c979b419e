"""The three products that a site's experts are made of, each over runs of samples that share their experts.

Sample b has C choices, `table[b]` (C,): the slots of its task experts and, last, of the universal expert. Hidden states
h are (B, T, C * r), the columns c * r to (c + 1) * r those of choice c.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llava_mocle.adapter.routing import Run


def project(x: Tensor, weight: Tensor, runs: list[Run]) -> Tensor:
    """h[b, t, choice c] = weight[table[b, c]] x[b, t].

    Args:
        x: (B, T, k).
        weight: (slots, r, k) of any strides and dtype; computed in the dtype of x.
    """
    rank, width = weight.shape[1], weight.shape[2]
    hidden = x.new_empty(*x.shape[:2], len(runs[0].slots) * rank)
    for first, last, slots in runs:
        part = hidden[first:last].view(-1, hidden.shape[-1])
        torch.mm(x[first:last].reshape(-1, width), _joined(weight, slots, x.dtype).t(), out=part)
    return hidden


def combine(hidden: Tensor, weight: Tensor, runs: list[Run], out: Tensor) -> None:
    """out[b, t] += sum over c of h[b, t, choice c] weight[table[b, c]], in place.

    Args:
        hidden: (B, T, C * r).
        weight: (slots, r, n) of any strides and dtype; computed in the dtype of `hidden`.
        out: (B, T, n), contiguous.
    """
    for first, last, slots in runs:
        part = out[first:last].view(-1, out.shape[-1])
        part.addmm_(hidden[first:last].view(-1, hidden.shape[-1]), _joined(weight, slots, hidden.dtype))


def outer(own: Tensor, shared: Tensor, runs: list[Run], out: Tensor) -> None:
    """out[e] += sum over (b, c) with table[b, c] == e, and over t, of own[b, t, choice c] (outer) shared[b, t].

    Args:
        own: (B, T, C * r).
        shared: (B, T, n).
        out: (slots, r, n) of any strides and dtype; slots that no sample chose are left alone.
    """
    rank = out.shape[1]
    for first, last, slots in runs:
        left = own[first:last].view(-1, own.shape[-1])
        right = shared[first:last].reshape(-1, shared.shape[-1])
        if out.stride(1) == 1:  # transposed: (slots, n, r) in memory
            product = torch.mm(right.t(), left).t()
        else:
            product = torch.mm(left.t(), right)
        for choice, slot in enumerate(slots):
            out[slot].add_(product[choice * rank : (choice + 1) * rank])


def _joined(weight: Tensor, slots: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """(C * r, n): the weights of these slots one below the other."""
    if len(slots) == 1:
        return weight[slots[0]].to(dtype)
    return torch.cat([weight[slot].to(dtype) for slot in slots])
