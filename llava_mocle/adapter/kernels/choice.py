"""Which way to compute a site's products on a GPU: each is tried once on the sizes at hand, and the fastest is kept.

Processes decide for themselves. Two of them may choose differently, which changes their results by rounding only:
nothing that a process chooses changes what it exchanges with others. The same holds for two runs of one program. Under
`torch.use_deterministic_algorithms(True)` nothing is measured, and all take the first way.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from llava_mocle.adapter.kernels import batched, grouped_mm
from llava_mocle.adapter.kernels.products import Segments

logger = logging.getLogger(__name__)

_ROUNDS = 5
# The largest difference between two ways, relative to the largest result: what sums in another order, TF32 and a
# rounding of each part differ by. A kernel that is wrong differs by about 1.
_AGREEMENT = 0.05

# The name of the way, by device, dtype and sizes.
_chosen: dict[tuple[object, ...], str] = {}
_ways: dict[str, Segments] = {}


def segments_for(
    x: Tensor, experts_A: Tensor, experts_B: Tensor, table: Tensor, others: Sequence[Segments] = ()
) -> Segments:
    """The way to take for these operands, measured when such sizes are met for the first time.

    Args:
        x: (B, T, in) on a GPU, in the dtype to compute in. Its values do not matter.
        experts_A: (slots, r, in).
        experts_B: (slots, out, r).
        table: (B, C), see `Segments`.
        others: further ways for this batch, such as one that knows on the CPU which samples share their experts.
            They are told from each other, and remembered, by their names.
    """
    rank = experts_A.shape[1]
    sizes = (experts_A.shape[2], experts_B.shape[1], rank, experts_A.shape[0], table.shape[1])
    names = tuple(way.name for way in others)
    key = (x.device, x.dtype, *sizes, *(_power_of_two(size) for size in x.shape[:2]), names)
    if key not in _chosen:
        # A graph that is being captured takes no measuring, and is no reason to measure less later.
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return batched.SEGMENTS
        ways = [batched.SEGMENTS]
        if not torch.are_deterministic_algorithms_enabled():
            ways += [*others, *available(x.device, x.dtype, (rank, experts_A.shape[2], experts_B.shape[1]))]
        _ways.update((way.name, way) for way in ways if way.name not in names)
        _chosen[key] = fastest(ways, x, sizes, table).name
    return next((way for way in others if way.name == _chosen[key]), None) or _ways[_chosen[key]]


def chosen() -> set[str]:
    """The names of the ways that were chosen until now."""
    return set(_chosen.values())


def available(device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...]) -> list[Segments]:
    """The ways besides the batched one that can take these operands; why the others cannot is logged.

    Args:
        sizes: r and the numbers of features.
    """
    ways = []
    reason = grouped_mm.why_not(device, dtype, sizes)
    if reason is None:
        ways.append(grouped_mm.SEGMENTS)
    else:
        logger.info("MoCLE experts: no %s, as %s", grouped_mm.SEGMENTS.name, reason)
    try:
        from llava_mocle.adapter.kernels.triton_kernels import SEGMENTS as TRITON
    except ImportError as error:
        logger.info("MoCLE experts: no Triton kernels, as triton cannot be imported (%s)", error)
    else:
        ways.append(TRITON)
    return ways


@torch.no_grad()
def fastest(ways: Sequence[Segments], x: Tensor, sizes: tuple[int, int, int, int, int], table: Tensor) -> Segments:
    """The way whose products of one site, forward and backward, take the least time; the first where it is alone.

    A way that fails, or whose results differ from the first one's, is left out with a warning.

    Args:
        x: (B, T, in): shape, dtype and device of the operands, which are drawn anew (experts may still be zero).
        sizes: in, out, r, slots and C.
    """
    if len(ways) == 1:
        return ways[0]
    site = Site(x, sizes, table)
    expected = site.run(ways[0])
    sound = [ways[0], *(way for way in ways[1:] if agrees(way, site, expected))]
    del expected
    seconds: dict[str, list[float]] = {way.name: [] for way in sound}
    for _ in range(_ROUNDS):
        for way in sound:
            seconds[way.name].append(_seconds(partial(site.run, way), x.device))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(sound, key=lambda way: medians[way.name])
    logger.info(
        "MoCLE experts: %s for %s (%s), measured on B %d x T %d, %d -> %d, r %d: %s",
        best.name,
        x.device,
        str(x.dtype).removeprefix("torch."),
        *x.shape[:2],
        *sizes[:3],
        ", ".join(f"{name} {1000 * median:.2f} ms" for name, median in medians.items()),
    )
    return best


class Site:
    """Random operands of one site. They are drawn apart from torch's own random numbers, which a run depends on."""

    def __init__(self, x: Tensor, sizes: tuple[int, int, int, int, int], table: Tensor) -> None:
        in_features, out_features, rank, self.slots, _ = sizes
        generator = torch.Generator(x.device).manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)

        self.table = table
        self.x = drawn(*x.shape)
        self.dy = drawn(*x.shape[:2], out_features)
        self.A = drawn(self.slots, rank, in_features).div_(in_features**0.5)
        self.B = drawn(self.slots, out_features, rank).div_(rank**0.5)

    def run(self, way: Segments) -> list[Tensor]:
        """What a forward and backward compute: y, dx, dA and dB."""
        B = self.B.mT
        h = way.project(self.x, self.A, self.table)
        y = self.dy.clone()
        way.combine(h, B, self.table, y)
        dh = way.project(self.dy, B, self.table)
        dx, dA, dB = torch.zeros_like(self.x), torch.empty_like(self.A), torch.empty_like(self.B)
        way.combine(dh, self.A, self.table, dx)
        way.outer(dh, self.x, self.table, dA)
        way.outer(h, self.dy, self.table, dB.mT)
        return [y, dx, dA, dB]


def agrees(way: Segments, site: Site, expected: Sequence[Tensor]) -> bool:
    """Whether a way runs and gives these results. Its kernels are compiled and their block sizes tried here."""
    try:
        found = site.run(way)
        differences = [
            float((mine.float() - theirs.float()).abs().max() / theirs.float().abs().max())
            for mine, theirs in zip(found, expected, strict=True)
        ]
    except Exception as error:  # a compiler, driver or memory that is not there must not end a run
        logger.warning("MoCLE experts: %s cannot run here and is not used: %s", way.name, error)
        return False
    # Written so that a difference that is not a number fails.
    if not all(difference <= _AGREEMENT for difference in differences):
        logger.warning(
            "MoCLE experts: %s is not used, as its results differ from those of the first way by up to %.2g of the "
            "largest one. Please report it.",
            way.name,
            max(differences),
        )
        return False
    return True


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def _power_of_two(size: int) -> int:
    """The next one: sizes in between are of one class."""
    return 1 << (size - 1).bit_length()
