"""A run whose loss, gradients or weights are no longer finite numbers stops before they reach a checkpoint."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llava_mocle.errors import DivergenceError
from llava_mocle.training.checkpoints.contents import newest_checkpoint
from llava_mocle.training.loop.saving import SavingTrainer
from llava_mocle.training.processes.group import on_main

# fp16's loss scale is halved at each overflow: from 2**16 it has met any gradient that can be met long before.
SKIPPED_STEPS = 20


class FiniteTrainer(SavingTrainer):
    """`SavingTrainer` that looks at its numbers where a log entry has brought them to the host, and before it saves.

    Steps in between cost nothing: what is not finite stays so, in the weights and in the sum of the losses, up to the
    next log entry or save. Under fp16, steps whose gradients overflow are skipped by design, so there it is a long row
    of skipped ones that stops a run.

    Raises:
        DivergenceError: on all ranks after the same step.
    """

    _total_loss_scalar: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._gradient_norm: Tensor | float | None = None
        self._skipped = 0
        self._counted = -1

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        self._gradient_norm = grad_norm
        if self.args.fp16:
            self._count_skipped()
        before = self._total_loss_scalar
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)
        if not math.isfinite(self._total_loss_scalar):
            # A skipped step's loss: inf - inf, by which `Trainer` empties the sum, would stay in it for good.
            self._total_loss_scalar = before
            tr_loss.zero_()

    def _count_skipped(self) -> None:
        if self.state.global_step == self._counted:  # `Trainer` comes here once more at an epoch's end
            return
        self._counted = self.state.global_step
        self._skipped = self._skipped + 1 if self.accelerator.optimizer_step_was_skipped else 0
        if self._skipped >= SKIPPED_STEPS:
            raise self._diverged(f"the gradients of {self._skipped} steps in a row were out of fp16's range")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, then look: loss (a mean over all ranks) and gradient norm are the same on every rank."""
        super().log(logs, start_time)
        if "loss" not in logs or self.args.fp16:
            return
        names = {"loss": "loss", "grad_norm": "gradient norm"}
        wrong = [f"{name} {logs[key]}" for key, name in names.items() if not math.isfinite(logs.get(key, 0.0))]
        if wrong:
            raise self._diverged(" and ".join(wrong))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._check_before_saving()
        super()._save_checkpoint(model, trial)

    def save_result(self) -> None:
        """`SavingTrainer.save_result`, if there is one worth saving."""
        self._check_before_saving()
        super().save_result()

    def _check_before_saving(self) -> None:
        # Under ZeRO-3 a rank holds its part of each parameter in `ds_tensor`.
        parts = [getattr(value, "ds_tensor", value) for value in self.model.parameters() if value.requires_grad]
        checks = {"a trained weight": _not_finite([part.detach() for part in parts], self.args.device)}
        if not self.args.fp16:
            numbers = {"the loss": getattr(self, "_tr_loss", None), "the gradient norm": self._gradient_norm}
            for name, number in numbers.items():
                found = [] if number is None else [torch.as_tensor(number)]
                checks[name] = _not_finite(found, self.args.device)
        # One transfer, and one answer for all ranks.
        counts = self.accelerator.reduce(torch.stack(list(checks.values())), reduction="sum").tolist()
        wrong = [name for name, count in zip(checks, counts, strict=True) if count]
        if wrong:
            raise self._diverged(f"{', '.join(wrong)}: not a finite number")

    def _diverged(self, what: str) -> DivergenceError:
        folder = Path(str(self.args.output_dir))
        newest = on_main(lambda: newest_checkpoint(folder))
        kept = f"{newest} is the last whole checkpoint" if newest else f"{folder} holds no checkpoint"
        other = ", bf16 in place of fp16" if self.args.fp16 else ""
        return DivergenceError(
            f"step {self.state.global_step}: {what}; the run stops and saves nothing of it ({kept}). Start again in "
            f"another output_dir with a lower learning_rate (now {self.args.learning_rate:g}), a smaller max_grad_norm "
            f"(now {self.args.max_grad_norm:g}){other}, or a longer warm-up"
        )


def _not_finite(values: list[Tensor], device: torch.device) -> Tensor:
    """How many of these tensors hold anything that is not finite, as a float on the device; waits for nothing."""
    flags = [(~torch.isfinite(value).all()).to(device) for value in values]
    return torch.stack(flags).sum().float() if flags else torch.zeros((), device=device)
