"""What the token and the sentence router have in common: gates that see what the model sees, and no cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Adds up a tensor over all processes: `reduce(tensor)`.
SumOverProcesses = Callable[[Tensor], Tensor]


def gates_of_sites(sites: Sequence[str], sharing: str) -> list[int]:
    """The number of the gate that decides for each site.

    Args:
        sites: their names, in the order of the model.
        sharing: "site", one gate each; "block", one gate for the sites of one module, such as an MLP; "model", one.
    """
    owners = {"site": lambda name: name, "block": lambda name: name.rpartition(".")[0], "model": lambda _: ""}
    found: dict[str, int] = {}
    return [found.setdefault(owners[sharing](site), len(found)) for site in sites]


def weights_of_kept(gate: Tensor, how: str) -> Tensor:
    """What the outputs of the chosen experts are multiplied by; see `MocleConfig.expert_weight`.

    Args:
        gate: (..., k), the probabilities of the chosen experts.
    """
    if how == "one":
        # Times zero, so that the gate has a gradient on every rank, whatever the loss.
        return torch.ones_like(gate) + 0.0 * gate
    if how == "renormalized":
        return gate / gate.sum(dim=-1, keepdim=True)
    return gate


def choice_share(expert: Tensor, num_experts: int) -> Tensor:
    """(..., E): the share of the k choices (..., k) that each expert got; its sum is 1."""
    share = torch.zeros(*expert.shape[:-1], num_experts, device=expert.device)
    return share.scatter_(-1, expert, 1.0 / expert.shape[-1])


def balance(share: Tensor, probability: Tensor) -> Tensor:
    """E sum_e f_e P_e (Switch Transformers, arXiv 2101.03961, eq. 4), which is 1 where all experts are used alike.

    Args:
        share: f (..., E), the share of the choices; no gradient.
        probability: P (..., E), the mean probability.
    """
    return share.shape[-1] * (share.to(probability.dtype) * probability).sum(dim=-1)
