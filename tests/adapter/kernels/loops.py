"""What every `Segments` has to give: plain loops in float64, and the sizes and layouts to try them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llava_mocle.adapter.kernels.products import Segments
from tests.adapter.fake_device import WAITING

# One rounding of the result: half a unit in the last place, relative to the largest result. float32 results are sums
# of up to a hundred terms, each of which may round.
EXACTNESS = {torch.float32: 2e-6, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@dataclass(frozen=True)
class Sizes:
    samples: int
    tokens: int
    width: int
    rank: int
    slots: int
    table: list[list[int]]


# Odd sizes, sizes of several blocks, experts that nobody chose, all of one, the same one twice for a sample.
ODD = {
    "one of everything": Sizes(1, 1, 1, 1, 1, [[0]]),
    "universal": Sizes(3, 19, 21, 5, 4, [[2, 3], [0, 3], [2, 3]]),
    "top-2, unchosen experts": Sizes(2, 7, 37, 3, 6, [[4, 1], [1, 5]]),
    "one expert for all": Sizes(3, 5, 18, 17, 3, [[1], [1], [1]]),
    "the same expert twice": Sizes(2, 18, 9, 2, 2, [[1, 1], [0, 1]]),
}
# Sizes whose rows are multiples of 16 bytes in every dtype.
ALIGNED = {
    "universal, aligned": Sizes(3, 19, 24, 8, 4, [[2, 3], [0, 3], [2, 3]]),
    "one token a sample, aligned": Sizes(5, 1, 40, 16, 6, [[4], [1], [1], [0], [4]]),
    "the same expert twice, aligned": Sizes(2, 18, 16, 8, 3, [[1, 1], [0, 1]]),
}


def operands(sizes: Sizes, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, h, out, the weights as they lie in A, and the table."""
    generator = torch.Generator().manual_seed(sizes.samples + sizes.tokens)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    table = torch.tensor(sizes.table, device=device)
    x, out = (drawn(sizes.samples, sizes.tokens, sizes.width) for _ in range(2))
    h = drawn(sizes.samples, sizes.tokens, table.shape[1] * sizes.rank)
    return x, h, out, drawn(sizes.slots, sizes.rank, sizes.width), table


def project(x: Tensor, weight: Tensor, table: Tensor) -> Tensor:
    return torch.stack([torch.cat([x[b] @ weight[e].mT for e in row], dim=1) for b, row in enumerate(table.tolist())])


def combine(h: Tensor, weight: Tensor, table: Tensor, out: Tensor) -> None:
    for b, row in enumerate(table.tolist()):
        for part, e in zip(h[b].chunk(len(row), dim=1), row, strict=True):
            out[b] += part @ weight[e]


def outer(h: Tensor, x: Tensor, table: Tensor, out: Tensor) -> None:
    out.zero_()
    for b, row in enumerate(table.tolist()):
        for part, e in zip(h[b].chunk(len(row), dim=1), row, strict=True):
            out[e] += part.mT @ x[b]


LOOPS = Segments("loops", project, combine, outer)
# The ways whose sums over tokens and samples are float32 until they are written.
EXACT_SUMS = ("batched GEMM", "Triton kernels")


def check(way: Segments, sizes: Sizes, dtype: torch.dtype, device: str = "cpu", rounding: float = 1.0) -> None:
    """Compare all products, for weights in the layouts of A and of B transposed, and for inputs with gaps.

    Args:
        rounding: how many times `EXACTNESS` a result may be off.
    """
    x, h, out, A, table = operands(sizes, dtype, device)
    limit = rounding * EXACTNESS[dtype]
    with_gaps = torch.stack((x, x), dim=-1)[..., 0]
    wide = [x.double(), h.double(), A.double()]
    for weight in (A, A.mT.contiguous().mT):
        for given in (x, with_gaps):
            found = way.project(given, weight, table)
            assert found.dtype == dtype
            close(found, project(wide[0], wide[2], table), limit)
        found, expected = out.clone(), out.double()
        way.combine(h, weight, table, found)
        combine(wide[1], wide[2], table, expected)
        close(found, expected, limit)
    # Weights of another dtype.
    found, expected = out.clone(), out.double()
    way.combine(h, A.float(), table, found)
    combine(wide[1], wide[2], table, expected)
    close(found, expected, limit)
    close(way.project(x, A.float(), table), project(wide[0], wide[2], table), limit)
    expected = torch.empty_like(wide[2])
    outer(wide[1], wide[0], table, expected)
    unchosen = sorted(set(range(sizes.slots)) - set(table.flatten().tolist()))
    sums = 2e-6 if way.name in EXACT_SUMS else limit
    for like, bound in ((A, limit), (A.float(), sums), (A.mT.contiguous().mT, limit)):
        found = torch.full_like(like, torch.nan)
        way.outer(h, x, table, found)
        close(found, expected, bound)
        assert (found[unchosen] == 0).all()


class Reads(TorchDispatchMode):
    """Notes every operation that would make the CPU wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func in WAITING:
            self.noted.append(str(func))
        return func(*args, **(kwargs or {}))


def reads(way: Segments) -> list[str]:
    """The operations of all three products that would make the CPU wait."""
    sizes = ALIGNED["universal, aligned"]
    x, h, out, weight, table = operands(sizes, torch.bfloat16)
    with Reads() as mode:
        table.flatten()[0].item()
        way.project(x, weight, table)
        way.combine(h, weight, table, out)
        way.outer(h, x, table, torch.empty_like(weight))
    assert len(mode.noted) > 0, "the read above was not noted"
    return mode.noted[1:]


def close(found: Tensor, expected: Tensor, limit: float) -> None:
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() <= limit * expected.abs().max()


dtypes = pytest.mark.parametrize("dtype", EXACTNESS, ids=lambda dtype: str(dtype).removeprefix("torch."))
