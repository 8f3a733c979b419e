"""The balance loss of the token and sentence routers, a mean over the samples of the global batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llava_mocle.adapter import MocleModel
from llava_mocle.data.tokenize import IGNORE_INDEX

NAME = "routing/balance"


class BalanceLoss:
    """What is added to every micro-batch's loss, so that a step's sum is the weight times the mean over its samples.

    A sample counts if any of its tokens is supervised, so those that only fill a batch do not.

    Args:
        tuner: the adapted model, whose adapter has a `balance_loss_weight`.
        accelerator: of the trainer; it adds up over processes.
        over_processes: whether the loss is a mean over the samples of all processes (`average_tokens_across_devices`).
    """

    def __init__(self, tuner: MocleModel, accelerator: Any, over_processes: bool = True) -> None:
        self.tuner = tuner
        self.accelerator = accelerator
        self.over_processes = over_processes
        self.weight: float = tuner.peft_config[tuner.active_adapters[0]].balance_loss_weight
        self._samples: Tensor | None = None
        self._reset()

    def _reset(self) -> None:
        self._seen: Tensor | None = None
        self._steps = 0

    def start_step(self, batches: Sequence[Mapping[str, Any]]) -> None:
        """Count the samples of a step. All processes call it together.

        Args:
            batches: this process's micro-batches.
        """
        count = sum((_counted(batch["labels"]).sum() for batch in batches), torch.zeros((), dtype=torch.long))
        samples = count.to(self.accelerator.device, torch.float32)
        self._samples = self._sum(samples) if self.over_processes else samples
        self._steps += 1

    def of(self, labels: Tensor) -> Tensor:
        """The part of the micro-batch whose forward has just run. All processes call it together.

        Args:
            labels: (B, T), of this micro-batch.
        """
        assert self._samples is not None, "a step was not started"
        counted = _counted(labels)
        parts = self.tuner.balance_losses(counted, self._sum)
        assert parts is not None, "the forward was not one of training"
        share = (parts * counted.to(parts)).sum() / self._samples.to(parts).clamp(min=1)
        self._seen = share.detach() if self._seen is None else self._seen + share.detach()
        # Gradients are averaged over the processes, as those of the supervised tokens' loss are.
        return self.weight * share * (self.accelerator.num_processes if self.over_processes else 1)

    def pop(self) -> dict[str, float]:
        """The mean over the steps since the last call, without the weight: 1 where the experts are used alike.

        All processes call it together.
        """
        if self._seen is None:
            return {}
        total = self.accelerator.reduce(self._seen, reduction="sum" if self.over_processes else "mean")
        found = {NAME: total.item() / self._steps}
        self._reset()
        return found

    def _sum(self, total: Tensor) -> Tensor:
        return self.accelerator.reduce(total, reduction="sum")


def _counted(labels: Tensor) -> Tensor:
    """(B,) bool: which samples have anything to learn."""
    return (labels[:, 1:] != IGNORE_INDEX).any(dim=1)
