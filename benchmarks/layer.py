"""One adapted linear, forward and backward, over PEFT's LoRA of rank r and 2r.

MoCLE activates two experts of rank r a token, so PEFT's LoRA of rank 2r does the same arithmetic: it is the baseline.
The samples are of four clusters in turn, each with an expert of its own ("mixed"), or all of one ("one cluster").

    OMP_NUM_THREADS=1 python -m benchmarks.layer --shapes 2048x5632x128 --tokens 256 --rounds 5
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from benchmarks.harness import in_turn, machine, operations, peak_mib, table
from llava_mocle.adapter import MocleConfig

BASELINE = "PEFT LoRA 2r"


class OneLinear(nn.Module):
    """The smallest model with one site."""

    def __init__(self, width: int, out: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def ways(args: argparse.Namespace, width: int, out: int, rank: int, clusters: Tensor) -> dict[str, Callable[[], None]]:
    """What is timed, the baseline first."""
    dtype = getattr(torch, args.dtype)
    torch.manual_seed(0)
    x = torch.randn(args.batch, args.tokens, width, dtype=dtype)
    direction = torch.randn(args.batch, args.tokens, out, dtype=dtype)
    base = OneLinear(width, out, dtype)

    def lora(rank: int) -> nn.Module:
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["linear"])
        return get_peft_model(OneLinear(width, out, dtype), config, autocast_adapter_dtype=False)

    def mocle(fused: bool) -> nn.Module:
        config = MocleConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=["linear"],
            num_experts=args.experts,
            num_clusters=args.experts,
            cluster_dim=384,
            gate_noise_std=0.0,
        )
        model = get_peft_model(OneLinear(width, out, dtype), config, autocast_adapter_dtype=False)
        # Cluster c chooses expert c.
        router = model.base_model.mocle_router["default"]
        router.cluster_embedding.data = torch.eye(args.experts, 384)
        router.gate_weight.data = torch.eye(args.experts, 384)[None]
        model.base_model.fused = fused
        return model

    def step(model: nn.Module, **routing: Tensor) -> Callable[[], None]:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

        def run() -> None:
            leaf = x.detach().requires_grad_()
            model(leaf, **routing).backward(direction)
            for parameter in trained:
                parameter.grad = None

        return run

    base.requires_grad_(False)
    return {
        BASELINE: step(lora(2 * rank)),
        "PEFT LoRA r": step(lora(rank)),
        "frozen": step(base),
        "MoCLE, plain path": step(mocle(False), cluster_ids=clusters),
        "MoCLE, fused": step(mocle(True), cluster_ids=clusters),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="576x1536x128,576x1536x8", help="in x out x rank, separated by commas")
    for name, default in {"batch": 8, "tokens": 256, "experts": 4, "rounds": 9}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    print(f"{vars(args)}; {machine()}")
    routings = {
        "mixed": torch.arange(args.batch) % args.experts,
        "one cluster": torch.zeros(args.batch, dtype=torch.long),
    }
    for shape in args.shapes.split(","):
        width, out, rank = map(int, shape.split("x"))
        for name, clusters in routings.items():
            compared = ways(args, width, out, rank, clusters)
            timings = in_turn(compared, args.rounds)
            peaks = {way: f"{peak_mib(run):.1f}" for way, run in compared.items()}
            launched = {way: str(operations(run)) for way, run in compared.items()}
            print(f"\n{width} x {out}, r {rank}, {name}:\n")
            print(table(timings, [BASELINE], {"peak MiB": peaks, "operations": launched}))


if __name__ == "__main__":
    main()
