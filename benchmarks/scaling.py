"""What more experts and more clusters cost: a step, its memory, and clipping with AdamW, over 4 experts and 4 clusters.

The model has SmolLM2-135M's shape with fewer layers. Its gates have no noise, so its clusters reach a few experts only.

    OMP_NUM_THREADS=1 python -m benchmarks.scaling --experts 4,16,64 --clusters 4,64,4096
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.harness import in_turn, machine, peak_mib, table
from benchmarks.step import batch, mocle, step


def update(model: nn.Module) -> Callable[[], None]:
    """Clipping and AdamW on the gradients of one step, which stay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)

    def run() -> None:
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    return run


def compare(args: argparse.Namespace, name: str, sizes: list[int]) -> None:
    """Two tables: steps, and updates."""
    ids, labels = batch(args)
    steps, updates = {}, {}
    for size in sizes:
        sized = argparse.Namespace(**{**vars(args), name: size})
        clusters = torch.arange(args.batch) % sized.clusters
        way = f"{name} {size}"
        steps[way] = step(mocle(sized, True, True), ids, labels, True, cluster_ids=clusters)
        if name == "experts":
            updates[way] = update(mocle(sized, True, True))
    first = next(iter(steps))
    timings = in_turn(steps, args.rounds)
    peaks = {way: f"{peak_mib(run):.0f}" for way, run in steps.items()}
    print(f"\nA step:\n\n{table(timings, [first], {'peak MiB': peaks})}")
    if updates:
        print(f"\nClipping and AdamW:\n\n{table(in_turn(updates, args.rounds), [first])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"layers": 2, "batch": 4, "tokens": 128, "rank": 16, "rounds": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--experts", default="4,16,64")
    parser.add_argument("--clusters", default="4,64,4096")
    parser.add_argument("--supervised", type=float, default=0.25)
    args = parser.parse_args()
    print(f"{vars(args)}; {machine()}")
    sizes = {name: [int(size) for size in getattr(args, name).split(",")] for name in ("experts", "clusters")}
    args.experts, args.clusters = 4, 4
    for name, listed in sizes.items():
        compare(args, name, listed)


if __name__ == "__main__":
    main()
