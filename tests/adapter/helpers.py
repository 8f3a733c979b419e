"""Tiny models, and the method written out a second time, one sample at a time, from the paper's formulas."""

from __future__ import annotations

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from llava_mocle.adapter import MocleConfig

VOCABULARY = 64
IMAGE_TOKEN = 60
IMAGE_TOKENS = 4


def text_config(**changes) -> LlamaConfig:
    values = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
    }
    return LlamaConfig(**{**values, **changes})


def tiny_llama(seed: int = 0, **changes) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(text_config(**changes)).eval()


def tiny_llava(seed: int = 0) -> LlavaForConditionalGeneration:
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text_config(), image_token_index=IMAGE_TOKEN, image_seq_length=IMAGE_TOKENS
    )
    return LlavaForConditionalGeneration(config).eval()


def config(**changes) -> MocleConfig:
    """A small adapter whose experts and gates all matter: B is drawn, not zero."""
    values = {
        "task_type": "CAUSAL_LM",
        "target_modules": ["up_proj", "down_proj"],
        "r": 3,
        "lora_alpha": 6,
        "num_experts": 4,
        "num_clusters": 5,
        "cluster_dim": 8,
        "temperature": 0.5,
        "init_lora_weights": False,
    }
    return MocleConfig(**{**values, **changes})


def plain_lora(**changes) -> MocleConfig:
    return config(**{"router": "none", "num_experts": 1, "universal_expert": False, "num_clusters": None, **changes})


def tiny_peft(seed: int = 0, **changes) -> PeftModel:
    model = tiny_llama(seed)
    torch.manual_seed(seed + 1)
    return get_peft_model(model, config(**changes)).eval()


def token_ids(batch: int, length: int = 6, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, IMAGE_TOKEN, (batch, length), generator=generator)


def relative_error(found: Tensor, expected: Tensor) -> float:
    scale = expected.abs().max().item() or 1.0
    return (found - expected).abs().max().item() / scale


class TwoSites(nn.Module):
    """Two linears in a row: the smallest model with sites of different shape."""

    def __init__(self, in_features: int = 7, middle: int = 6, out_features: int = 5) -> None:
        super().__init__()
        self.first = nn.Linear(in_features, middle)
        self.second = nn.Linear(middle, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def expected_site(
    x: Tensor,
    linear: nn.Linear,
    experts: tuple[Tensor, Tensor],
    logits: Tensor,
    config: MocleConfig,
) -> Tensor:
    """One site, from the formulas: x (B, ..., in), logits (B, E) with bias and noise already in."""
    A, B = experts
    scale = config.lora_alpha / config.r
    outputs = []
    for b in range(x.shape[0]):
        probabilities = torch.exp(logits[b] / config.temperature)
        probabilities = probabilities / probabilities.sum()
        if config.gate_mode == "released":
            probabilities = (logits[b] / config.temperature).half().softmax(-1).to(logits.dtype)
        chosen = sorted(range(config.num_experts), key=lambda e: -probabilities[e].item())[: config.top_k]
        mixed = torch.zeros(*x.shape[1:-1], linear.out_features, dtype=x.dtype)
        for e in chosen:
            power = 2 if config.gate_mode == "released" and config.universal_expert else 1
            mixed = mixed + probabilities[e] ** power * (x[b] @ A[e].T @ B[e].T)
        if config.universal_expert:
            rest = 1 - probabilities[chosen[0]]
            if config.gate_mode == "released":
                rest = rest.half().to(rest.dtype)
            mixed = mixed + rest * (x[b] @ A[-1].T @ B[-1].T)
        outputs.append(x[b] @ linear.weight.T + linear.bias + scale * mixed)
    return torch.stack(outputs)
