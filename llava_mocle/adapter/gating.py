"""The formulas of the gates: from logits to probabilities, and from the chosen gates to the experts' weights."""

from __future__ import annotations

import torch
from torch import Tensor


def gate_probabilities(logits: Tensor, temperature: float, mode: str = "paper") -> Tensor:
    """softmax(logits / temperature) over the last dimension, in the dtype of `logits`.

    Under mode "released" the softmax itself is taken in fp16, as the authors' published code does.

    Args:
        logits: (..., E).
    """
    scaled = logits / temperature
    if mode == "released":
        return torch.softmax(scaled.to(torch.float16), dim=-1).to(logits.dtype)
    return torch.softmax(scaled, dim=-1)


def mixing_weights(gate: Tensor, mode: str, universal: bool) -> tuple[Tensor, Tensor | None]:
    """What the chosen experts and the universal expert are multiplied by.

    "paper": G and 1 - G_max (arXiv 2312.12379, eq. 3). "released": as the published layer. With a universal expert it
    applies the gate twice, so G^2 and 1 - G_max, the latter rounded to fp16 as its gates are; without one G.

    Args:
        gate: (..., k), strongest first.

    Returns:
        expert weight (..., k) and universal weight (...), or None without a universal expert.
    """
    if not universal:
        return gate, None
    strongest = gate[..., 0]
    if mode == "released":
        return gate * gate, (1 - strongest.to(torch.float16)).to(gate.dtype)
    return gate, 1 - strongest
