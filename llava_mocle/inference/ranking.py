"""Scores candidate answers by their likelihood. The image and the question are computed once."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
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
        routing: on the model's device: `cluster_ids` or `dataset_ids` (1,), or `instruction_ids` (1, L), if the model
            takes one of them.
    """
    device = next(model.parameters()).device
    ids, own = split_prefix(rows)
    counted = [row["labels"][len(ids) :] != -100 for row in rows]
    prefix = family.prefix(model, ids.to(device), inputs, routing)
    scores = torch.zeros(len(own), dtype=torch.float32)
    # Like lengths together, as they are padded to the longest.
    order = sorted(range(len(own)), key=lambda row: len(own[row]))
    for begin in range(0, len(own), CANDIDATES_AT_ONCE):
        part = order[begin : begin + CANDIDATES_AT_ONCE]
        # Padded on the right, where no counted token attends to it.
        tokens = pad_sequence([own[row] for row in part], batch_first=True).to(device)
        mask = pad_sequence([counted[row] for row in part], batch_first=True).to(device)
        found = torch.zeros(tokens.shape, dtype=torch.float32, device=device)
        found[:, 0] = _log_probabilities(prefix.logits[0].expand(len(part), -1), tokens[:, 0])
        if tokens.shape[1] > 1:
            logits = family.extend(model, prefix, tokens[:, :-1], routing)
            later = mask[:, 1:]
            found[:, 1:][later] = _log_probabilities(logits[later], tokens[:, 1:][later])
        scores[part] = (found * mask).sum(dim=1).cpu()
    return scores.tolist()


def _log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of tokens (N,), for logits (N, V).

    By `logsumexp`, as `cross_entropy` sums fifty thousand terms less exactly: it errs by 2e-5, and by 1e-4 where V is
    not the last dimension; `logsumexp` by 2e-6.
    """
    logits = logits.float()
    return logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(dim=1)
