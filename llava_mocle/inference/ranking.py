"""Scores candidate answers by their likelihood. The image and the question are computed once."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

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
    model: Any, rows: Sequence[Mapping[str, Tensor]], inputs: Mapping[str, Tensor], routing: Mapping[str, Tensor]
) -> list[float]:
    """Summed log-probability of each row's supervised tokens, in nats.

    Args:
        model: a LLaVA model, adapted or not.
        rows: tokenized conversations, the same up to the candidate (`split_prefix`).
        inputs: `pixel_values` of the one question, if it has images.
        routing: `cluster_ids` or `dataset_ids` (1,), if the model is routed.
    """
    device = next(model.parameters()).device
    prefix, own = split_prefix(rows)
    counted = [row["labels"][len(prefix) :] != -100 for row in rows]
    inputs = {name: value.to(device) for name, value in inputs.items()}
    routing = {name: value.to(device) for name, value in routing.items()}
    start = model(input_ids=prefix[None].to(device), **inputs, **routing, use_cache=True, logits_to_keep=1)
    scores: list[float] = []
    for begin in range(0, len(own), CANDIDATES_AT_ONCE):
        part = slice(begin, begin + CANDIDATES_AT_ONCE)
        scores += _continue(model, start, own[part], counted[part], routing)
    return scores


def _continue(
    model: Any, start: Any, own: Sequence[Tensor], counted: Sequence[Tensor], routing: Mapping[str, Tensor]
) -> list[float]:
    size, device = len(own), start.logits.device
    tokens = pad_sequence(list(own), batch_first=True).to(device)
    # Padded on the right, where no counted token attends to it.
    mask = pad_sequence(list(counted), batch_first=True).to(device)
    logits = start.logits.expand(size, -1, -1)
    if tokens.shape[1] > 1:
        cache = copy.deepcopy(start.past_key_values)
        cache.batch_repeat_interleave(size)
        repeated = {name: value.expand(size) for name, value in routing.items()}
        later = model(input_ids=tokens[:, :-1], past_key_values=cache, use_cache=True, **repeated).logits
        logits = torch.cat([logits, later], dim=1)
    losses = F.cross_entropy(logits.float().transpose(1, 2), tokens, reduction="none")
    return (-(losses * mask).sum(dim=1)).tolist()
