"""The sentence router (Octavius): its gates see the mean word embedding of a sample's instruction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.gating import gate_probabilities
from llava_mocle.adapter.learned_gates import (
    SumOverProcesses,
    balance,
    choice_share,
    gates_of_sites,
    weights_of_kept,
)
from llava_mocle.adapter.router import Router
from llava_mocle.adapter.routing import Gates, Routing, copy_to_host
from llava_mocle.errors import ConfigError, RoutingError

# Stands in `instruction_ids` behind the tokens of an instruction that is shorter than the batch's longest.
NO_TOKEN = -1


class SentenceGates(NamedTuple):
    """What the sentence router decides for B samples with N gates.

    Attributes:
        gates: at the S sites. Their `gate` is what a chosen expert is multiplied by.
        probability: (N, B, E), of every expert.
        expert: (N, B, k), the chosen ones.
    """

    gates: Gates
    probability: Tensor
    expert: Tensor


class SentenceRouting(Routing):
    """The routing of B samples, which also knows the probabilities that the balance loss needs."""

    def __init__(self, decided: SentenceGates, experts: Tensor) -> None:
        super().__init__(decided.gates, "paper", False, experts)
        self.decided = decided

    def balance_losses(self, counted: Tensor, sum_over: SumOverProcesses) -> Tensor:
        """(B,): each sample's part of the balance loss; their mean over all counted samples is the loss.

        The shares f are those of the counted samples of this forward, in all processes.

        Args:
            counted: (B,) bool, the samples that count.
        """
        _, probability, expert = self.decided
        kept = counted.to(probability)
        chosen = (choice_share(expert, probability.shape[-1]).to(probability) * kept[:, None]).sum(dim=1)  # (N, E)
        total = sum_over(torch.cat([chosen.flatten(), kept.sum().view(1)]))
        share = total[:-1].view_as(chosen) / total[-1].clamp(min=1)
        return balance(share.unsqueeze(1), probability).mean(dim=0)


class SentenceRouter(Router):
    """Gates on the mean of the language model's input word embeddings over an instruction's own tokens.

    Args:
        config: the adapter's.
        sites: their names, in the order of the gates.
        dim: D, of a word embedding.

    Parameters:
        gate_weight: (N, E, D) of N gates: one a site, a block or a model (`gate_sharing`).
        gate_bias: (N, E), only with `gate_bias`.
    """

    id_name = "instruction_ids"

    def __init__(self, config: MocleConfig, sites: Sequence[str], dim: int) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.top_k = config.top_k
        self.expert_weight = config.expert_weight
        self.noise_std = config.noise_std
        self._gate_of = gates_of_sites(sites, config.gate_sharing)
        number = 1 + max(self._gate_of)
        self.gate_weight = nn.Parameter(torch.empty(number, config.num_experts, dim))
        self.gate_bias = nn.Parameter(torch.empty(number, config.num_experts)) if config.gate_bias else None
        with torch.no_grad():  # as in nn.Linear
            for parameter in self.parameters():
                parameter.uniform_(-(dim**-0.5), dim**-0.5)

    def forward(self, sentences: Tensor, noisy: bool) -> SentenceGates:
        """The gates of all sites; noise is drawn here, once a gate and sample.

        Args:
            sentences: (B, D), the mean embeddings.
            noisy: add N(0, noise_std) to the logits.
        """
        with torch.autocast(self.gate_weight.device.type, enabled=False):
            dtype = torch.promote_types(self.gate_weight.dtype, torch.float32)
            samples = sentences.to(self.gate_weight.device, dtype).expand(len(self.gate_weight), -1, -1)
            clean = torch.bmm(samples, self.gate_weight.to(dtype).transpose(1, 2))  # (N, B, E)
            if self.gate_bias is not None:
                clean = clean + self.gate_bias.to(dtype).unsqueeze(1)
            logits = clean + self.noise_std * torch.randn_like(clean) if noisy and self.noise_std > 0 else clean
            probability = gate_probabilities(logits, self.temperature)
            gate, expert = probability.topk(self.top_k, dim=-1)
            weight = weights_of_kept(gate, self.expert_weight)
        at_sites = (torch.stack([part[number] for number in self._gate_of]) for part in (expert, weight, clean))
        expert_at, weight_at, clean_at = at_sites
        return SentenceGates(Gates(expert_at, weight_at, clean_at.detach()), probability, expert)

    def routing(self, model: Any, instruction_ids: Any, rows: int | None) -> SentenceRouting:
        """The routing of a batch.

        Args:
            model: the base model, whose word embeddings are used.
            instruction_ids: (B, L), see `check_instruction_ids`.
            rows: B where it is known from the other inputs.

        Raises:
            RoutingError: as `check_instruction_ids`, or a token that the model does not have.
        """
        ids = check_instruction_ids(instruction_ids, rows)
        embedding = model.get_input_embeddings()
        decided = self(mean_embeddings(embedding, ids), noisy=self.training)
        experts, values = copy_to_host([decided.gates.expert, ids])
        _check_range(values, embedding.num_embeddings)
        return SentenceRouting(decided, experts)


def embedding_dim(model: Any) -> int:
    """D, the width of the model's word embeddings.

    Raises:
        ConfigError: it has none.
    """
    find = getattr(model, "get_input_embeddings", None)
    embedding: Any = find() if find is not None else None
    if not hasattr(embedding, "embedding_dim"):
        raise ConfigError(
            f"router='sentence' reads a model's word embeddings, and {type(model).__name__} has none that its "
            "get_input_embeddings() gives; choose another router."
        )
    return int(embedding.embedding_dim)


@torch.no_grad()
def mean_embeddings(embedding: nn.Module, ids: Tensor) -> Tensor:
    """(B, D) in float32 or better: the mean word embedding of each row's tokens; zeros for a row without any.

    The embedding is called as a module, so that ZeRO-3 gathers it.

    Args:
        ids: (B, L), padded with -1.
    """
    own = ids != NO_TOKEN
    # Clamped, because a GPU that is asked for a row that is not there stops without naming the token.
    device = next(embedding.parameters()).device
    words = embedding(ids.clamp(0, embedding.num_embeddings - 1).to(device))
    words = words.to(torch.promote_types(words.dtype, torch.float32))
    own = own.to(words.device).unsqueeze(-1)
    return (words * own).sum(dim=1) / own.sum(dim=1).clamp(min=1)


def check_instruction_ids(ids: Any, rows: int | None) -> Tensor:
    """The instructions of a batch as an int64 tensor (B, L) of token ids, padded with -1.

    Raises:
        RoutingError: missing, of a wrong dtype or shape, or not one row a sample.
    """
    expected = "a LongTensor (B, L) of each sample's instruction's tokens, padded with -1"
    if ids is None:
        raise RoutingError(
            f"instruction_ids is missing: this adapter routes every sample by its instruction; pass {expected}."
        )
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.dtype.is_floating_point or ids.dtype == torch.bool:
        found = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise RoutingError(f"instruction_ids must be {expected}; found {found}.")
    if rows is not None and len(ids) != rows:
        raise RoutingError(
            f"instruction_ids has {len(ids)} rows but the batch has {rows} samples; pass exactly one row per sample."
        )
    return ids.to(torch.long)


def _check_range(ids: Tensor, vocabulary: int) -> None:
    outside = ids[(ids < NO_TOKEN) | (ids >= vocabulary)].tolist()
    if outside:
        raise RoutingError(
            f"instruction_ids holds {outside[:5]}; expected tokens in [0, {vocabulary}), which the model has "
            "embeddings for, or -1 for padding. Tokenize instructions with the model's own tokenizer."
        )
