"""Scores candidate answers by their likelihood. The image and the question are computed once."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from llava_mocle.families.family import Family

# Rows of one forward; each holds a copy of the prefix's keys and values.
CANDIDATES_AT_ONCE = 32


def split_prefix(rows: Sequence[Mapping[str, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    """Split tokenized conversations that differ only in their last answer into a common prefix and the rest of each.

    The prefix ends where the first supervised token starts, or earlier, at the first token that differs: a tokenizer
    may join the end of the prompt and the start of an answer in one token.

    Args:
        rows: `input_ids` and `labels` (T,) of each.

    Returns:
        the prefix (P,), and the tokens of each row that follow it.
    """
    starts = [int(torch.nonzero(row["labels"] != -100)[0]) for row in rows]
    shared = min(starts)
    first = rows[0]["input_ids"][:shared]
    for row in rows[1:]:
        same = row["input_ids"][: len(first)] == first[: len(row["input_ids"])]
        if not bool(same.all()):
            first = first[: int(torch.nonzero(~same)[0])]
    return first, [row["input_ids"][len(first) :] for row in rows]


@torch.inference_mode()
def log_likelihoods(
    family: Family,
    model: Any,
    rows: Sequence[Mapping[str, Tensor]],
    inputs: Mapping[str, Tensor],
    routing: Mapping[str, Tensor],
) -> list[float]:
    """Summed log-probability of each row's supervised tokens, in nats.

    Args:
        family: the model's.
        model: adapted or not.
        rows: tokenized conversations, the same up to the candidate (`split_prefix`).
        inputs: what else the model takes, for the one question, on the model's device.
        routing: `cluster_ids` or `dataset_ids` (1,), if the model is routed, on the model's device.
    """
    device = next(model.parameters()).device
    ids, own = split_prefix(rows)
    counted = [row["labels"][len(ids) :] != -100 for row in rows]
    prefix = family.prefix(model, ids.to(device), inputs, routing)
    scores: list[float] = []
    for begin in range(0, len(own), CANDIDATES_AT_ONCE):
        part = slice(begin, begin + CANDIDATES_AT_ONCE)
        tokens = pad_sequence(own[part], batch_first=True).to(device)
        # Padded on the right, where no counted token attends to it.
        mask = pad_sequence(counted[part], batch_first=True).to(device)
        logits = prefix.logits.expand(len(tokens), -1, -1)
        if tokens.shape[1] > 1:
            logits = torch.cat([logits, family.extend(model, prefix, tokens[:, :-1], routing)], dim=1)
        losses = F.cross_entropy(logits.float().transpose(1, 2), tokens, reduction="none")
        scores += (-(losses * mask).sum(dim=1)).tolist()
    return scores
