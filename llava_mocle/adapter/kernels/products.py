"""The three products that a site is made of, and what every way to compute them has to give."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Segments(NamedTuple):
    """One way to compute a site's low-rank products, forward and backward.

    A batch has B samples of T tokens. Each sample has C choices: its top-k task experts, then the universal expert if
    there is one. `table` (B, C) int64, on the device, names the slot of each choice. A batch's hidden states h are
    (B, T, C * r): choice c has the columns c r to (c + 1) r. A stack of weights is (slots, r, n), with any strides: A
    as it is, B transposed. Products are computed in the dtype of x and h. T, n and r may be any numbers from 1.

        project(x (B, T, n), weight, table) -> h
            h[b, t, c] = weight[table[b, c]] x[b, t]
        combine(h, weight, table, out (B, T, n)) -> None
            out[b, t] += sum over c of h[b, t, c] weight[table[b, c]]
        outer(h, x (B, T, n), table, out (slots, r, n)) -> None
            out[e] = sum over t and the b, c with table[b, c] == e of h[b, t, c]^T x[b, t]

    `combine` adds in place. `outer` writes over `out`, of any strides and dtype, with exact zeros in a slot that nobody
    chose. Sums are taken in a fixed order: the same call gives the same bits. On a GPU they are taken in float32.

    With y = W0 x + B (w * (A x)): project(x, A), then combine(h * w, B). Backward: project(dy, B), then combine(., A)
    for dx, outer(., x) for dA, and outer(h * w, dy) for dB transposed.

    Attributes:
        name: for logs.
    """

    name: str
    project: Callable[[Tensor, Tensor, Tensor], Tensor]
    combine: Callable[[Tensor, Tensor, Tensor, Tensor], None]
    outer: Callable[[Tensor, Tensor, Tensor, Tensor], None]
