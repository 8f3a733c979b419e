"""Side by side: several ways to do one thing, timed in turn within every round of one run.

A busy machine slows all ways of a round alike, so what is compared is the ratio to the baseline of the same round. The
first way is the baseline. It is run twice a round, and the ratio of its second run to its first is the noise.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

NOISE = "noise (the baseline again)"


@dataclass(frozen=True)
class Timing:
    """What one way took in every round.

    Attributes:
        cpu: processor seconds of this process, all threads.
        wall: seconds.
    """

    cpu: list[float]
    wall: list[float]


@dataclass(frozen=True)
class Spread:
    """The smallest, the middle and the largest of some figures."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(min(values), statistics.median(values), max(values))

    def __str__(self) -> str:
        return f"{self.low:.3f} / {self.middle:.3f} / {self.high:.3f}"


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, Timing]:
    """Run every way once a round, the baseline (the first) twice; `NOISE` is its second run."""
    runs: list[tuple[str, Callable[[], object]]] = list(ways.items())
    runs.append((NOISE, runs[0][1]))
    for _ in range(warm_up):
        for _, way in runs[:-1]:
            way()
    timings = {name: Timing([], []) for name, _ in runs}
    for _ in range(rounds):
        for name, way in runs:
            gc.collect()
            _wait()
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            _wait()
            timings[name].cpu.append(time.process_time() - cpu)
            timings[name].wall.append(time.perf_counter() - wall)
    return timings


def ratios(timings: Mapping[str, Timing], name: str, over: str, clock: str = "cpu") -> Spread:
    """One way's time over another's of the same round."""
    pairs = zip(getattr(timings[name], clock), getattr(timings[over], clock), strict=True)
    return Spread.of([value / base for value, base in pairs])


def table(timings: Mapping[str, Timing], over: Sequence[str], extra: Mapping[str, Mapping[str, str]] = {}) -> str:
    """A Markdown table: milliseconds, and ratios of processor time (min / median / max) to the ways named in `over`.

    Args:
        extra: further columns, their heading -> way -> cell.
    """
    heads = ["", "CPU ms", "wall ms", *(f"over {name}" for name in over), *extra]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, timing in timings.items():
        cells = [name, f"{1000 * statistics.median(timing.cpu):.2f}", f"{1000 * statistics.median(timing.wall):.2f}"]
        cells += [str(ratios(timings, name, base)) for base in over]
        cells += [column.get(name, "") for column in extra.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def peak_mib(way: Callable[[], object]) -> float:
    """MiB that the way needs at its peak beyond what was allocated before it. Run it once before."""
    gc.collect()
    if torch.cuda.is_available():
        _wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        _wait()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        way()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20


def operations(way: Callable[[], object]) -> int:
    """How many operators of torch's own compute something, views not counted: on a GPU each is a kernel or more."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        way()
    computing = [event for event in profiler.events() if event.name.startswith("aten::") and not _is_view(event.name)]
    inner = {id(child) for event in computing for child in event.cpu_children}
    outermost = [event for event in computing if id(event) not in inner]
    return len(outermost)


def _is_view(name: str) -> bool:
    views = (
        "view", "reshape", "_unsafe_view", "t", "transpose", "expand", "select", "slice", "narrow", "unsqueeze",
        "squeeze", "as_strided", "split", "unbind", "detach", "empty", "empty_like", "empty_strided", "new_empty",
        "numpy_T", "alias", "item", "_local_scalar_dense", "to", "resize_", "result_type", "view_as", "unflatten",
        "flatten", "_reshape_alias", "expand_as", "lift_fresh", "is_nonzero", "chunk", "permute", "contiguous",
        "linear", "matmul", "resolve_conj",
    )  # fmt: skip
    return name.removeprefix("aten::") in views


def machine() -> str:
    """One line: the processor or GPU, threads, the library and the day."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = f"{names[0]} ({len(names)} cores)" if names else "CPU"
    return f"{name}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {date.today()}"


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
