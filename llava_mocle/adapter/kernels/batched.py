"""Each sample's experts gathered and stacked to rank C r; then one batched GEMM for all samples.

It needs nothing but torch, never waits for the device, and takes every dtype and size. It copies C experts a sample,
which is little beside long samples and much beside single tokens. `outer` holds a product (C r, n) of every sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llava_mocle.adapter.kernels.products import Segments


def project(x: Tensor, weight: Tensor, table: Tensor) -> Tensor:
    """See `Segments`."""
    return torch.bmm(x, _gathered(weight, table, x.dtype).mT)


def combine(h: Tensor, weight: Tensor, table: Tensor, out: Tensor) -> None:
    """See `Segments`."""
    stacked = _gathered(weight, table, h.dtype)
    if out.dtype == h.dtype:
        out.baddbmm_(h, stacked)
    else:
        out.add_(torch.bmm(h, stacked))


def outer(h: Tensor, x: Tensor, table: Tensor, out: Tensor) -> None:
    """See `Segments`; the sums are float32."""
    # A product with ones and zeros sums the samples of a slot in a fixed order, which adding at an index does not.
    chosen = table.flatten() == torch.arange(len(out), device=table.device)[:, None]
    with torch.autocast(x.device.type, enabled=False):  # which would round the sums
        each = _float32_bmm(h.mT, x).view(table.numel(), -1)
        out.copy_((chosen.to(each.dtype) @ each).view(out.shape))


def _gathered(weight: Tensor, table: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, C r, n)."""
    return weight.to(dtype).index_select(0, table.flatten()).reshape(table.shape[0], -1, weight.shape[-1])


def _float32_bmm(left: Tensor, right: Tensor) -> Tensor:
    if left.dtype == torch.float32:
        return torch.bmm(left, right)
    if left.is_cuda:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


SEGMENTS = Segments("batched GEMM", project, combine, outer)
