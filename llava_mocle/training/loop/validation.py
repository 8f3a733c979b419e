"""Validation loss by dataset and by cluster, as a mean over supervised tokens."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llava_mocle.data.row_dataset import RowDataset
from llava_mocle.data.tokenize import IGNORE_INDEX
from llava_mocle.recipe.validation_metrics import LOSS, cluster_loss, dataset_loss


def sample_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood and number of supervised tokens of each sample.

    Args:
        logits: (B, T, V).
        labels: (B, T), -100 where a token is not supervised.

    Returns:
        Two float32 tensors (B,): the sum in nats, and the count.
    """
    shifted = labels[:, 1:].to(logits.device)
    losses = F.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), shifted, ignore_index=IGNORE_INDEX, reduction="none"
    )
    return losses.sum(dim=1), (shifted != IGNORE_INDEX).sum(dim=1).float()


class LossByGroup:
    """Adds up losses by dataset and by cluster over a validation pass.

    Args:
        dataset_names: dataset id -> name.
    """

    def __init__(self, dataset_names: Sequence[str]) -> None:
        self.dataset_names = list(dataset_names)
        self.reset()

    def reset(self) -> None:
        """Forget everything added."""
        self._sums: dict[str, list[float]] = {}

    def add(self, losses: Tensor, counts: Tensor, dataset_ids: Tensor | None, cluster_ids: Tensor | None) -> None:
        """Add a batch of B samples.

        Args:
            losses: (B,) summed negative log-likelihoods in nats.
            counts: (B,) numbers of supervised tokens.
            dataset_ids: (B,), or None.
            cluster_ids: (B,), -1 for a sample that has none, or None.
        """
        for row, (loss, count) in enumerate(zip(losses.tolist(), counts.tolist(), strict=True)):
            keys = [LOSS]
            if dataset_ids is not None:
                keys.append(dataset_loss(self.dataset_names[int(dataset_ids[row])]))
            if cluster_ids is not None and int(cluster_ids[row]) >= 0:
                keys.append(cluster_loss(int(cluster_ids[row])))
            for key in keys:
                total = self._sums.setdefault(key, [0.0, 0.0])
                total[0] += loss
                total[1] += count

    def metrics(self) -> Mapping[str, float]:
        """`eval_loss`, `eval_loss_<dataset>` and `eval_loss_cluster_<c>`, in nats a supervised token."""
        return {key: total / count for key, (total, count) in sorted(self._sums.items()) if count}


def pack_ids(ids: Tensor | None, like: Tensor) -> Tensor:
    """Ids as a tensor shaped like `like`, -1 where there are none, so that every rank gathers the same shape."""
    return torch.full_like(like, -1, dtype=torch.long) if ids is None else ids.to(like.device)


def metrics_of(rows: RowDataset) -> list[str]:
    """The metrics that a validation pass over these rows has: those of the datasets and clusters that have a row."""
    datasets = rows.of_samples([np.full(len(rows.mixture.rows[name]), name) for name in rows.mixture.names])
    names = [LOSS, *(dataset_loss(name) for name in rows.mixture.names if name in set(datasets.tolist()))]
    if rows.cluster_ids is not None:
        clusters = rows.of_samples([rows.cluster_ids[name] for name in rows.mixture.names])
        names += [cluster_loss(cluster) for cluster in sorted(set(clusters.tolist())) if cluster >= 0]
    return names
