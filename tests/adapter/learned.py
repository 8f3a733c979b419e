"""The token and sentence routers written a second time, one token and one expert at a time; and a small model."""

import torch
from torch import Tensor, nn

from llava_mocle.adapter import MocleConfig

WORDS = 20


class Reader(nn.Module):
    """Words in, numbers out: two blocks of two linears of different shapes, the second called after the first."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 7)
        self.blocks = nn.ModuleList([Block(7, 6), Block(7, 5)])

    def get_input_embeddings(self) -> nn.Embedding:
        return self.words

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.words(input_ids)
        for block in self.blocks:
            x = x + block(x)
        return x


class Block(nn.Module):
    def __init__(self, width: int, middle: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, middle)
        self.down = nn.Linear(middle, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x)))


def learned(router: str, **changes) -> MocleConfig:
    """A small adapter of that router whose experts all matter: B is drawn, not zero."""
    values = {
        "router": router, "target_modules": ["up", "down"], "r": 3, "lora_alpha": 6, "num_experts": 4,
        "universal_expert": False, "temperature": 0.5, "gate_noise_std": 0.0, "init_lora_weights": False,
    }  # fmt: skip
    return MocleConfig(**{**values, **changes})


def probabilities_of(logits: list[Tensor], config: MocleConfig) -> list[Tensor]:
    powers = [torch.exp(value / config.temperature) for value in logits]
    return [power / sum(powers) for power in powers]


def mixed(x: Tensor, experts: tuple[Tensor, Tensor], probabilities: list[Tensor], config: MocleConfig) -> Tensor:
    """The experts' contribution for one token x (in,), and nothing of the frozen linear."""
    A, B = experts
    chosen = chosen_of(probabilities, config)
    kept = sum(probabilities[e] for e in chosen)
    output = torch.zeros(B.shape[1], dtype=x.dtype)
    for e in chosen:
        weight = {"probability": probabilities[e], "one": 1.0, "renormalized": probabilities[e] / kept}
        hidden = torch.stack([(A[e, row] * x).sum() for row in range(A.shape[1])])
        output = output + weight[config.expert_weight] * torch.stack([(row * hidden).sum() for row in B[e]])
    return config.lora_alpha / config.r * output


def chosen_of(probabilities: list[Tensor], config: MocleConfig) -> list[int]:
    return sorted(range(config.num_experts), key=lambda e: -probabilities[e].item())[: config.top_k]


def dot(weight: Tensor, bias: Tensor | None, x: Tensor) -> list[Tensor]:
    """The logits of one gate (E, D) for x (D,)."""
    return [(row * x).sum() + (0 if bias is None else bias[e]) for e, row in enumerate(weight)]


def balance_by_hand(rows: list[list[Tensor]], config: MocleConfig) -> Tensor | int:
    """E times the sum over experts of their share of the choices and their mean probability, over these rows."""
    total = 0
    for e in range(config.num_experts):
        share = sum((e in chosen_of(row, config)) / config.top_k for row in rows) / len(rows)
        total = total + share * sum(row[e] for row in rows) / len(rows)
    return config.num_experts * total
