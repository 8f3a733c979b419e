"""The samples' choices put in the order of their experts; then one grouped GEMM, whose group sizes stay on the device.

`torch.nn.functional.grouped_mm` is one kernel on Hopper and Blackwell, in bfloat16. Elsewhere it is a loop that waits
for the device. Each result is rounded to the dtype of the input before it is added up, unlike in the other ways.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from llava_mocle.adapter.kernels.products import Segments

# The kernel loads rows that start at multiples of 16 bytes.
_ALIGNMENT = 16


def why_not(device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...]) -> str | None:
    """Why the grouped kernel cannot take these inputs; None: it can.

    Args:
        sizes: r and the numbers of features.
    """
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device)[0] not in (9, 10):
            return "its kernel needs a GPU of compute capability 9 or 10"
        if dtype != torch.bfloat16:
            return f"its kernel takes bfloat16, not {str(dtype).removeprefix('torch.')}"
    unaligned = [size for size in sizes if size * dtype.itemsize % _ALIGNMENT]
    if unaligned:
        return f"rows of {unaligned[0]} numbers of {str(dtype).removeprefix('torch.')} are no multiple of 16 bytes"
    return None


def project(x: Tensor, weight: Tensor, table: Tensor) -> Tensor:
    """See `Segments`."""
    samples, tokens, _ = x.shape
    choices, rank = table.shape[1], weight.shape[1]
    groups = _groups(table, weight.shape[0], tokens)
    rows = x.index_select(0, groups.order // choices).flatten(0, 1)
    h = F.grouped_mm(rows, _matrices(weight, x.dtype).mT, offs=groups.ends).view(samples * choices, tokens, rank)
    return h.index_select(0, groups.places).view(samples, choices, tokens, rank).transpose(1, 2).flatten(2)


def combine(h: Tensor, weight: Tensor, table: Tensor, out: Tensor) -> None:
    """See `Segments`."""
    tokens, width = out.shape[1:]
    groups = _groups(table, weight.shape[0], tokens)
    products = F.grouped_mm(_choices_in_order(h, table, groups), _matrices(weight, h.dtype), offs=groups.ends)
    products = products.view(table.numel(), tokens, width)
    for place in groups.places.view(table.shape).unbind(1):
        out.add_(products.index_select(0, place))


def outer(h: Tensor, x: Tensor, table: Tensor, out: Tensor) -> None:
    """See `Segments`; a sum is rounded to the dtype of h."""
    groups = _groups(table, len(out), x.shape[1])
    left = _choices_in_order(h, table, groups)
    right = x.index_select(0, groups.order // table.shape[1]).flatten(0, 1)
    result = F.grouped_mm(left.mT, right, offs=groups.ends)
    # The kernel need not write a group without rows.
    empty = groups.ends.diff(prepend=groups.ends.new_zeros(1)) == 0
    out.copy_(result.masked_fill_(empty[:, None, None], 0))


class _Groups(NamedTuple):
    """The pairs (sample, choice), in the order of their slots.

    Attributes:
        order: (B C,) which pair, row-major in the table, stands at a place.
        places: (B C,) at which place a pair stands.
        ends: (slots,) int32, the row after each slot's last, with T rows a pair.
    """

    order: Tensor
    places: Tensor
    ends: Tensor


def _groups(table: Tensor, slots: int, tokens: int) -> _Groups:
    experts, order = table.flatten().sort(stable=True)
    bounds = torch.searchsorted(experts, torch.arange(slots, device=table.device), right=True)
    return _Groups(order, order.argsort(), (bounds * tokens).to(torch.int32))


def _choices_in_order(h: Tensor, table: Tensor, groups: _Groups) -> Tensor:
    """The hidden states (B C T, r) of the pairs in order."""
    pairs = h.unflatten(2, (table.shape[1], -1)).transpose(1, 2).flatten(0, 1)
    return pairs.index_select(0, groups.order).flatten(0, 1)


def _matrices(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The stack, in a layout that the kernel takes: rows or columns without gaps."""
    weight = weight.to(dtype)
    return weight if weight.is_contiguous() or weight.mT.is_contiguous() else weight.contiguous()


SEGMENTS = Segments("grouped GEMM", project, combine, outer)
