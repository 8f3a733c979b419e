"""Validation loss by dataset and by cluster, as a mean over supervised tokens."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    """Adds up losses by dataset and by cluster over a validation pass. The sums stay on the device of the losses.

    Args:
        dataset_names: dataset id -> name.
        clusters: K, the number of clusters; 0 where samples have none.
    """

    def __init__(self, dataset_names: Sequence[str], clusters: int = 0) -> None:
        # The last line is of samples without a cluster.
        self.names = [LOSS, *map(dataset_loss, dataset_names), *map(cluster_loss, range(clusters)), ""]
        self._first_cluster = 1 + len(dataset_names)
        self.reset()

    def reset(self) -> None:
        """Forget everything added."""
        self._sums: Tensor | None = None

    def add(self, losses: Tensor, counts: Tensor, dataset_ids: Tensor | None, cluster_ids: Tensor | None) -> None:
        """Add a batch of B samples.

        Args:
            losses: (B,) summed negative log-likelihoods in nats.
            counts: (B,) numbers of supervised tokens.
            dataset_ids: (B,), or None.
            cluster_ids: (B,), -1 for a sample that has none, or None.
        """
        values = torch.stack([losses, counts], dim=1).double()
        if self._sums is None:
            self._sums = values.new_zeros(len(self.names), 2)
        self._sums[0] += values.sum(dim=0)
        if dataset_ids is not None:
            self._sums.index_add_(0, 1 + dataset_ids.to(values.device), values)
        if cluster_ids is not None:
            ids = cluster_ids.to(values.device)
            self._sums.index_add_(0, torch.where(ids < 0, len(self.names) - 1, self._first_cluster + ids), values)

    def metrics(self, reduce: Callable[..., Any] | None = None) -> Mapping[str, float]:
        """`eval_loss`, `eval_loss_<dataset>` and `eval_loss_cluster_<c>`, in nats a supervised token.

        Args:
            reduce: `Accelerator.reduce`, where several processes have added their samples; all of them call together.
        """
        if self._sums is None:
            return {}
        sums = self._sums if reduce is None else reduce(self._sums, reduction="sum")
        found = dict(zip(self.names[:-1], sums.tolist(), strict=False))
        return {key: total / count for key, (total, count) in sorted(found.items()) if count}


def clusters_of(rows: RowDataset) -> int:
    """The least K that the clusters of these rows fit; 0 where they have none."""
    return 0 if rows.cluster_ids is None else 1 + max(int(ids.max(initial=-1)) for ids in rows.cluster_ids.values())


def metrics_of(rows: RowDataset) -> list[str]:
    """The metrics that a validation pass over these rows has: those of the datasets and clusters that have a row."""
    datasets = rows.of_samples([np.full(len(rows.mixture.rows[name]), name) for name in rows.mixture.names])
    names = [LOSS, *(dataset_loss(name) for name in rows.mixture.names if name in set(datasets.tolist()))]
    if rows.cluster_ids is not None:
        clusters = rows.of_samples([rows.cluster_ids[name] for name in rows.mixture.names])
        names += [cluster_loss(cluster) for cluster in sorted(set(clusters.tolist())) if cluster >= 0]
    return names
