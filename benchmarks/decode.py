"""Decoding: one adapted linear for one token, a whole model token by token, and the questions of an evaluation.

The floor is PEFT's LoRA of rank 2r, which has as many multiplications as MoCLE's two active experts. The evaluation
needs a trained model, the demo's by default, and is left out where there is none.

    python -m benchmarks.decode
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from benchmarks.answering import mixed_requests
from benchmarks.harness import in_turn, machine, table
from llava_mocle.adapter import MocleConfig
from llava_mocle.evaluation.answering.order import batches
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.inference import Predictor

TARGETS = ["up_proj", "down_proj"]
FLOOR = "PEFT LoRA 2r"


class OneLinear(nn.Module):
    """One linear, called again and again: stands for the steps of a `generate` call."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(in_features, out_features, bias=False)
        self.calls = 1
        self.generation_config = None  # PEFT asks for it

    def forward(self, x: Tensor) -> Tensor:
        return self.up_proj(x)

    def generate(self, inputs_embeds: Tensor, **_: Any) -> None:
        with torch.no_grad():
            for _ in range(self.calls):
                self(inputs_embeds)

    def prepare_inputs_for_generation(self) -> None:
        """PEFT asks for it, and calls it in no way that matters here."""


def adapted(model: Any, rank: int, targets: list[str]) -> Any:
    """MoCLE on the model: four experts and the universal one, four clusters, nothing zero."""
    config = MocleConfig(
        task_type="CAUSAL_LM",
        target_modules=targets,
        r=rank,
        lora_alpha=2 * rank,
        num_experts=4,
        num_clusters=4,
        cluster_dim=32,
        temperature=0.05,
        init_lora_weights=False,
    )
    return get_peft_model(model, config).eval().requires_grad_(False)


def plain(model: Any, rank: int, targets: list[str]) -> Any:
    config = LoraConfig(
        task_type="CAUSAL_LM", target_modules=targets, r=rank, lora_alpha=2 * rank, init_lora_weights=False
    )
    return get_peft_model(model, config).eval().requires_grad_(False)


def one_linear(args: argparse.Namespace, batch: int) -> dict[str, Callable[[], object]]:
    """The ways for one linear; each call is many tokens."""
    torch.manual_seed(0)
    shape = args.in_features, args.out_features
    mocle, lora = (
        make(OneLinear(*shape), rank, ["up_proj"]) for make, rank in ((adapted, args.rank), (plain, 2 * args.rank))
    )
    merged = adapted(OneLinear(*shape), args.rank, ["up_proj"])
    merged.merge_adapter(cluster=0)
    frozen = OneLinear(*shape).requires_grad_(False)
    for model in (mocle.get_base_model(), lora.get_base_model(), merged.get_base_model(), frozen):
        model.calls = args.tokens
    x = torch.randn(batch, 1, args.in_features)
    return ways(frozen, lora, merged, mocle, batch, {"inputs_embeds": x})


def whole_model(args: argparse.Namespace, batch: int) -> dict[str, Callable[[], object]]:
    """The ways for a language model of SmolLM2-135M's shape, with random weights."""

    def base() -> Any:
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            vocab_size=49152,
            tie_word_embeddings=True,
        )
        return LlamaForCausalLM(config).eval().requires_grad_(False)

    lora, mocle, merged = (
        plain(base(), 2 * args.model_rank, TARGETS),
        *(adapted(base(), args.model_rank, TARGETS) for _ in range(2)),
    )
    merged.merge_adapter(cluster=0)
    prompt = torch.randint(3, 49152, (batch, 16))
    options = {"max_new_tokens": args.new_tokens, "min_new_tokens": args.new_tokens, "do_sample": False}
    inputs = {
        "input_ids": prompt,
        "attention_mask": torch.ones_like(prompt),
        "generation_config": GenerationConfig(**options, pad_token_id=0),
    }
    return ways(base(), lora, merged, mocle, batch, inputs)


def ways(
    frozen: Any, lora: Any, merged: Any, mocle: Any, batch: int, inputs: dict[str, Any]
) -> dict[str, Callable[[], object]]:
    one = torch.zeros(batch, dtype=torch.long)
    found: dict[str, Callable[[], object]] = {
        FLOOR: lambda: lora.generate(**inputs),
        "frozen": lambda: frozen.generate(**inputs),
        "MoCLE, one cluster, merged": lambda: merged.generate(**inputs),
        "MoCLE, one cluster": lambda: mocle.generate(**inputs, cluster_ids=one),
        "MoCLE, one cluster, token by token": lambda: not_collapsed(mocle, cluster_ids=one, **inputs),
    }
    if batch > 1:
        mixed = torch.arange(batch) % 4
        found["MoCLE, mixed"] = lambda: mocle.generate(**inputs, cluster_ids=mixed)
    return found


def evaluation(args: argparse.Namespace) -> tuple[dict[str, Callable[[], object]], list[list[str]]]:
    """The ways to answer some of the demo's questions, and what each has answered."""
    predictor = Predictor.from_pretrained(args.model, dtype="float32", device="cpu")
    requests = mixed_requests(Path(args.data), args.questions)
    questions = [Question(number, request.prompt, tuple(request.image_list)) for number, request in enumerate(requests)]
    answers: list[list[str]] = []

    def answered(order: list[list[int]]) -> None:
        texts = [""] * len(requests)
        for batch in order:
            found = predictor.predict_batch([requests[index] for index in batch], max_new_tokens=args.new_tokens)
            for index, prediction in zip(batch, found, strict=True):
                texts[index] = prediction.text
        answers.append(texts)

    every = range(len(requests))
    in_order = [list(every[begin : begin + 8]) for begin in range(0, len(requests), 8)]
    return {
        "batches of 8, in the questions' order": lambda: answered(in_order),
        "batches of 8, by cluster and length": lambda: answered(batches(predictor, questions, 8)),
    }, answers


def not_collapsed(model: Any, **inputs: Any) -> None:
    """With a hook on one site's experts, which then have to be called."""
    site = model.base_model.model.get_submodule(model.base_model.sites[0])
    handle = site.mocle_experts["default"].register_forward_hook(lambda *_: None)
    try:
        model.generate(**inputs)
    finally:
        handle.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "in-features": 2048,
        "out-features": 5632,
        "rank": 128,
        "tokens": 12,
        "model-rank": 16,
        "new-tokens": 6,
        "rounds": 5,
        "questions": 24,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="playground/runs/mocle")
    parser.add_argument("--data", default="playground/data")
    parser.add_argument("--only", choices=["linear", "model", "evaluation"])
    args = parser.parse_args()
    print(f"{machine()}; min / median / max of {args.rounds} rounds\n")
    over = (FLOOR, "frozen")
    for batch in (1, 8) if args.only in (None, "linear") else ():
        print(f"one linear {args.in_features} x {args.out_features}, r {args.rank}, {args.tokens} tokens, B {batch}\n")
        print(table(in_turn(one_linear(args, batch), args.rounds), over), "\n")
    for batch in (1, 8) if args.only in (None, "model") else ():
        print(f"SmolLM2-135M's shape, r {args.model_rank}, 16 + {args.new_tokens} tokens, B {batch}\n")
        print(table(in_turn(whole_model(args, batch), args.rounds), over), "\n")
    if args.only in (None, "evaluation") and Path(args.model).exists():
        orders, answers = evaluation(args)
        print(f"{args.questions} questions of the demo, {args.new_tokens} tokens at most\n")
        print(table(in_turn(orders, 2, warm_up=0), [next(iter(orders))]))
        differ = sum(len(set(texts)) > 1 for texts in zip(*answers, strict=True))
        print(f"\n{differ} of {args.questions} answers depend on the order")


if __name__ == "__main__":
    main()
