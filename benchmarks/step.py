"""A whole training step, forward and backward, over PEFT's LoRA of rank r and 2r on the same model.

The model has the shape of SmolLM2-135M (random weights). MoCLE activates two experts of rank r a token, so PEFT's LoRA
of rank 2r does the same arithmetic: it is the baseline. A share of the tokens is supervised.

    OMP_NUM_THREADS=1 python -m benchmarks.step --layers 30 --rank 128 --supervised 0.25
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.harness import in_turn, machine, peak_mib, table
from llava_mocle.adapter import MlpNames, MocleConfig
from llava_mocle.model.supervised_head import put_supervised_head

TARGETS = ["up_proj", "down_proj"]


def base_model(args: argparse.Namespace) -> LlamaForCausalLM:
    """Random weights, the same for every way."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=args.layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def batch(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Token ids and labels (B, T): the last tokens of every sample are supervised."""
    ids = torch.randint(0, 49152, (args.batch, args.tokens), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, : round(args.tokens * (1 - args.supervised))] = -100
    return ids, labels


def lora(args: argparse.Namespace, rank: int) -> nn.Module:
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    return get_peft_model(base_model(args), config)


def mocle(args: argparse.Namespace, fused: bool, mlp: bool) -> nn.Module:
    config = MocleConfig(
        r=args.rank,
        lora_alpha=2 * args.rank,
        target_modules=TARGETS,
        task_type="CAUSAL_LM",
        num_experts=args.experts,
        num_clusters=args.clusters,
        cluster_dim=384,
        gate_noise_std=0.0,
    )
    model = get_peft_model(base_model(args), config)
    model.base_model.fused = fused
    if mlp:
        model.base_model.fuse_mlps(MlpNames())
    return model


def step(
    model: nn.Module, ids: Tensor, labels: Tensor, supervised_head: bool = False, **routing: Tensor
) -> Callable[[], object]:
    """One forward and backward of this model."""
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    head = put_supervised_head(model.get_base_model()) if supervised_head else None

    def run() -> None:
        if head is None:
            loss = model(input_ids=ids, labels=labels, use_cache=False, **routing).loss
        else:
            with head.supervising(labels):
                loss = model(input_ids=ids, use_cache=False, **routing).logits.mean()
        loss.backward()
        for parameter in trained:
            parameter.grad = None

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "layers": 6, "batch": 4, "tokens": 128, "rank": 128, "experts": 4, "clusters": 4, "rounds": 7
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--supervised", type=float, default=0.25)
    args = parser.parse_args()
    ids, labels = batch(args)
    clusters = torch.arange(args.batch) % args.clusters
    ways = {
        "PEFT LoRA 2r": step(lora(args, 2 * args.rank), ids, labels),
        "PEFT LoRA r": step(lora(args, args.rank), ids, labels),
        "MoCLE, plain path": step(mocle(args, False, False), ids, labels, cluster_ids=clusters),
        "MoCLE, fused sites": step(mocle(args, True, False), ids, labels, cluster_ids=clusters),
        "MoCLE, fused MLPs": step(mocle(args, True, True), ids, labels, cluster_ids=clusters),
        "MoCLE, fused MLPs, supervised head": step(mocle(args, True, True), ids, labels, True, cluster_ids=clusters),
    }
    timings = in_turn(ways, args.rounds)
    peaks = {name: f"{peak_mib(way):.0f}" for name, way in ways.items()}
    print(f"{vars(args)}; {machine()}\n")
    print(table(timings, ["PEFT LoRA 2r"], {"peak MiB": peaks}))


if __name__ == "__main__":
    main()
