"""Time of one adapted linear, forward and backward: per-sample reference, grouped path, plain LoRA.

The three run in turn within every round, so that a busy machine slows all of them alike; what is printed is each
path's time over plain LoRA's of the same round (min / median / max of the rounds). Plain LoRA (one expert of rank r)
is the floor: with a universal expert the grouped path does twice its products.

    python -m benchmarks.adapter_products --batch 16 --tokens 64 --in-features 576 --out-features 1536 --rank 16
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from llava_mocle.adapter.product import grouped
from llava_mocle.adapter.routing import Assignment, Gates, Routing
from tests.adapter.reference_product import reference


def routed(experts: Tensor, universal: bool) -> Assignment:
    """The assignment of samples (B,) to these experts, with gates that need a gradient."""
    gate = torch.rand(1, len(experts), 1, device=experts.device).requires_grad_()
    return Routing(Gates(experts.view(1, -1, 1), gate, gate.detach()), "paper", universal).site(0)


def timed(path: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of one forward and backward."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    path().sum().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(args: argparse.Namespace, experts: Tensor, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every path in every round."""
    dtype = getattr(torch, args.dtype)
    options = {"device": device, "dtype": dtype, "requires_grad": True}
    x = torch.randn(args.batch, args.tokens, args.in_features, **options)
    A = torch.randn(args.experts + 1, args.rank, args.in_features, **options)
    B = torch.randn(args.experts + 1, args.out_features, args.rank, **options)
    plain_A = torch.randn(1, args.rank, args.in_features, **options)
    plain_B = torch.randn(1, args.out_features, args.rank, **options)
    paths = {
        "reference": lambda: reference(x, A, B, routed(experts, True), 2.0),
        "grouped": lambda: grouped(x, A, B, routed(experts, True), 2.0),
        "grouped, no universal": lambda: grouped(x, A[:-1], B[:-1], routed(experts, False), 2.0),
        "plain LoRA": lambda: grouped(x, plain_A, plain_B, None, 2.0),
    }
    for path in paths.values():
        timed(path, device)
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(args.rounds):
        for name, path in paths.items():
            seconds[name].append(timed(path, device))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "batch": 16,
        "tokens": 64,
        "in-features": 576,
        "out-features": 1536,
        "rank": 16,
        "experts": 4,
        "rounds": 15,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    routings = {
        "all share one expert": torch.zeros(args.batch, dtype=torch.long, device=device),
        "mixed": torch.randint(args.experts, (args.batch,), device=device),
        "in turn": torch.arange(args.batch, device=device) % args.experts,
    }
    print(f"{vars(args)}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for routing, experts in routings.items():
        seconds = compare(args, experts, device)
        floor = seconds["plain LoRA"]
        print(f"\n{routing}: median ms, and ratio to plain LoRA (min / median / max of {args.rounds} rounds)")
        for name, values in seconds.items():
            ratios = sorted(value / base for value, base in zip(values, floor, strict=True))
            spread = f"{ratios[0]:.2f} / {statistics.median(ratios):.2f} / {ratios[-1]:.2f}"
            print(f"  {name:<24}{1000 * statistics.median(values):9.2f}   {spread}")


if __name__ == "__main__":
    main()
