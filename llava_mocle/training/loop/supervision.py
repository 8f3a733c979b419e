"""Losses of a batch: by the head on supervised tokens alone where that can run, else from all logits."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llava_mocle.data.tokenize import IGNORE_INDEX
from llava_mocle.model.supervised_head import (
    SupervisedHead,
    next_tokens,
    put_supervised_head,
    supervised_positions,
    why_not,
)
from llava_mocle.training.loop.validation import sample_losses

logger = logging.getLogger(__name__)

POSITIONS = "supervised_positions"


@dataclass(frozen=True)
class WithPositions:
    """A collator whose batches also have `supervised_positions`, so that no GPU is asked for them."""

    collator: Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch = self.collator(samples)
        return batch | {POSITIONS: supervised_positions(batch["labels"])}


class Supervision:
    """How the trainer gets the losses of a batch.

    Args:
        base: the model without what PEFT wraps around it. Its head is replaced if it can be.
        wanted: the key `supervised_head`.
        talks: whether this process says why the head is not replaced.

    Attributes:
        head: the replaced head; None: losses come from all logits.
    """

    def __init__(self, base: Any, wanted: bool, talks: bool = True) -> None:
        self.head: SupervisedHead | None = None
        if not wanted:
            return
        reason = why_not(base)
        if reason is None:
            self.head = put_supervised_head(base)
        elif talks:
            logger.warning("the head computes logits of all tokens, supervised or not: %s", reason)

    def collator(self, collator: Any) -> Any:
        """The collator with what `around` and `of_samples` need."""
        return collator if self.head is None else WithPositions(collator)

    @property
    def loss_function(self) -> Callable[..., Tensor] | None:
        """What `Trainer` takes as `compute_loss_func`; None: the model computes the loss."""
        return None if self.head is None else _mean_loss

    def around(self, labels: Tensor, positions: Tensor | None) -> AbstractContextManager[None]:
        """Inside it, the model's forward without labels gives what `loss_function` takes."""
        return nullcontext() if self.head is None else self.head.supervising(labels, positions)

    def of_samples(
        self, model: nn.Module, inputs: Mapping[str, Any], labels: Tensor, positions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Summed negative log-likelihood and number of supervised tokens of each sample, as `sample_losses`.

        Args:
            inputs: what the model takes, without labels.
        """
        if self.head is None:
            return sample_losses(model(**inputs).logits, labels)
        if positions is None:
            positions = supervised_positions(labels)
        with self.head.supervising(labels, positions):
            losses = model(**inputs).logits
        sums = torch.zeros(len(labels), device=losses.device).index_add_(0, positions // labels.shape[1], losses)
        return sums, (next_tokens(labels) != IGNORE_INDEX).sum(dim=1).float()


def _mean_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int) -> Tensor:
    """The mean over the supervised tokens of the global batch, of which these are some."""
    return outputs.logits.sum() / torch.as_tensor(num_items_in_batch, device=outputs.logits.device).clamp(min=1)
