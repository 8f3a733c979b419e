"""A sample that belongs to several clusters, or to no cluster wholly: `cluster_weights` beside its `cluster_ids`.

Its gate probabilities are the weighted sum of its clusters' probabilities. Weights may add up to less than 1: what is
missing goes to the universal expert, whose weight is 1 - G_max as ever.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from llava_mocle.adapter.gating import gate_probabilities
from llava_mocle.errors import RoutingError

CLUSTER_WEIGHTS = "cluster_weights"
# Weights in float32 may add up to a little more than 1.
_ROUNDING = 1e-5


def check_weights(ids: Any, weights: Any) -> tuple[Tensor, Tensor]:
    """The ids and weights of a batch, both (B, n), or an error that says what is wrong with them.

    The values of weights on a GPU are not looked at, as the CPU would have to wait for it.

    Args:
        ids: `cluster_ids`, (B,) or (B, n), of any integers; they are checked elsewhere.
        weights: `cluster_weights`, of the same shape.

    Raises:
        RoutingError: ids are missing, the shapes differ, or weights are negative or add up to more than 1.
    """
    if ids is None:
        raise RoutingError(f"{CLUSTER_WEIGHTS} is given without cluster_ids; pass the clusters that they weigh.")
    ids, weights = torch.as_tensor(ids), torch.as_tensor(weights)
    if ids.shape != weights.shape or ids.ndim not in (1, 2) or not weights.dtype.is_floating_point:
        raise RoutingError(
            f"{CLUSTER_WEIGHTS} must hold a number for each of cluster_ids, (B,) or (B, n); found shapes "
            f"{tuple(weights.shape)} of {weights.dtype} and {tuple(ids.shape)}."
        )
    ids, weights = ids.reshape(len(ids), -1), weights.reshape(len(ids), -1)
    if weights.device.type == "cpu":
        total = weights.sum(dim=1)
        wrong = ((weights < 0).any(dim=1) | ~(total <= 1 + _ROUNDING)).nonzero().flatten().tolist()
        if wrong:
            raise RoutingError(
                f"{CLUSTER_WEIGHTS} of sample {wrong[0]} are {weights[wrong[0]].tolist()}; expected numbers from 0 "
                "that add up to at most 1."
            )
    return ids, weights


def mixed_probabilities(logits: Tensor, weights: Tensor, temperature: float, mode: str) -> Tensor:
    """(S, B, E): the weighted sum of the gate probabilities of each sample's clusters.

    Args:
        logits: (S, B * n, E), those of every sample's clusters in a row.
        weights: (B, n).
    """
    probabilities = gate_probabilities(logits, temperature, mode).unflatten(1, weights.shape)
    return (probabilities * weights.to(probabilities).unsqueeze(-1)).sum(dim=2)


def distinct_mixtures(ids: Any, weights: Any) -> set[Hashable]:
    """The different routings of a batch: ids, or pairs of ids and weights."""
    values = torch.as_tensor(ids).tolist()
    if weights is None:
        return set(values)
    rows = zip(*(torch.as_tensor(part).reshape(len(values), -1).tolist() for part in (ids, weights)), strict=True)
    return {(tuple(clusters), tuple(parts)) for clusters, parts in rows}
