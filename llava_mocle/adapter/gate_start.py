"""gate_init="balanced": gates that start with an expert for each group of near clusters, and an even share of the data.

Random gates give neighbouring clusters unrelated experts, and some experts many more samples than others.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from llava_mocle.adapter.centroids import load_counts
from llava_mocle.adapter.config import MocleConfig
from llava_mocle.errors import ConfigError

# The probability at which a cluster's gates start for the expert of its group. The universal expert then still gets a
# quarter, and the softmax 3/4 of its largest gradient: p (1 - p) is 0.19, of at most 0.25.
PREFERENCE = 0.75
_ROUNDS = 100
# How far a solved logit may be off, as a part of the largest one.
_EXACT = 1e-6


def initial_gate(config: MocleConfig, embedding: Tensor | None) -> Tensor | None:
    """(E, D): the gate weights at which every site of a new adapter starts; None where they are random.

    The counts are those of the cluster model in `config.centroids`.

    Args:
        embedding: (K, D), the cluster embedding at its start.

    Raises:
        ConfigError: as `balanced_gates`.
        ClusterModelError: the counts cannot be read.
    """
    if config.gate_init != "balanced" or embedding is None or embedding.is_meta:
        return None
    with torch.device("cpu"):  # also while a model is laid out on the meta device
        counts = None if config.centroids is None else load_counts(config.centroids)
        return balanced_gates(config, embedding, counts)


def balanced_gates(config: MocleConfig, embedding: Tensor, counts: Tensor | None) -> Tensor:
    """(E, D): the gate weights at which every site starts.

    With them, the logits of a cluster are m for the expert of its group (see `balanced_groups`) and 0 for the others,
    m = temperature * log(p (E - 1) / (1 - p)), so that its softmax is p = `PREFERENCE` at that expert. Of all such
    weights these have the least norm.

    Args:
        embedding: (K, D), the cluster embedding at its start.
        counts: (K,), the samples of each cluster; None, or all 0: nothing is known of them, so all count alike.

    Raises:
        ConfigError: no weights give these logits, as the rows of `embedding` are linearly dependent.
    """
    num_experts = config.num_experts
    if num_experts == 1:
        return embedding.new_zeros(num_experts, embedding.shape[1])
    points = embedding.double()
    if counts is None or not counts.sum() > 0:
        counts = torch.ones(len(points))
    groups = balanced_groups(points, counts.double(), num_experts)
    margin = config.temperature * math.log(PREFERENCE * (num_experts - 1) / (1 - PREFERENCE))
    logits = margin * torch.nn.functional.one_hot(groups, num_experts).double()  # (K, E)
    weights = torch.linalg.pinv(points) @ logits  # (D, E)
    if not torch.allclose(points @ weights, logits, rtol=0, atol=_EXACT * margin):
        raise ConfigError(
            f"gate_init='balanced' needs centroids that are linearly independent, but the {len(points)} centroids of "
            f"dimension {points.shape[1]} are not; use fewer clusters, or gate_init='random'."
        )
    return weights.t().to(embedding.dtype)


def balanced_groups(points: Tensor, counts: Tensor, num_groups: int) -> Tensor:
    """(K,) int64: the group of each cluster, by k-means over the centroids with a limit on a group's samples.

    The first centre is the largest cluster. Each next one is the cluster with the largest count times squared distance
    to its nearest centre. In each round the clusters, the largest first, go to the nearest centre whose group has fewer
    samples than an even share so far; while no more clusters are left than groups are empty, only empty groups take
    one. Then each centre moves to the mean of its group, weighted by count. The rounds end when the groups stay; of all
    rounds, the one with the least weighted sum of squared distances to the groups' means counts.

    So no group has more than an even share and one cluster on top, and with K >= `num_groups` none is empty. Nothing
    is drawn at random.

    Args:
        points: (K, D) float64.
        counts: (K,) float64, not negative, with a sum above 0.
    """
    centres = _first_centres(points, counts, min(num_groups, len(points)))
    best, least, groups = torch.arange(0), math.inf, None
    for _ in range(_ROUNDS):
        before, groups = groups, _fill(torch.cdist(points, centres) ** 2, counts)
        if before is not None and torch.equal(groups, before):
            break
        members = torch.nn.functional.one_hot(groups, len(centres)).double() * counts[:, None]  # (K, groups)
        # A group whose clusters have no samples keeps its centre.
        total = members.sum(dim=0)[:, None]
        centres = torch.where(total > 0, members.t() @ points / total.clamp(min=1e-300), centres)
        spread = float((counts * ((points - centres[groups]) ** 2).sum(dim=1)).sum())
        if spread < least:
            best, least = groups, spread
    return best


def _first_centres(points: Tensor, counts: Tensor, number: int) -> Tensor:
    chosen = [int(counts.argmax())]
    for _ in range(number - 1):
        distances = (torch.cdist(points, points[chosen]) ** 2).min(dim=1).values
        weight = counts * distances
        weight[chosen] = -1.0
        chosen.append(int(weight.argmax()))
    return points[chosen]


def _fill(squares: Tensor, counts: Tensor) -> Tensor:
    """One round: (K,) groups for the squared distances (K, groups)."""
    number, num_groups = squares.shape
    share = float(counts.sum()) / num_groups
    loads, sizes = [0.0] * num_groups, [0] * num_groups
    groups = torch.empty(number, dtype=torch.long)
    order = counts.argsort(descending=True, stable=True).tolist()
    for left, cluster in zip(range(number, 0, -1), order, strict=True):
        empty = [group for group in range(num_groups) if not sizes[group]]
        room = [group for group in range(num_groups) if loads[group] < share]
        open_groups = empty if left <= len(empty) else room or list(range(num_groups))
        group = min(open_groups, key=lambda group: cast(float, squares[cluster, group].item()))
        groups[cluster] = group
        loads[group] += float(counts[cluster])
        sizes[group] += 1
    return groups
