"""A run whose loss, gradients or weights are no longer finite numbers stops before they reach a checkpoint."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from llava_mocle.errors import DivergenceError
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.training.checkpoints.contents import newest_checkpoint
from llava_mocle.training.processes.group import on_main

# Each overflow halves fp16's loss scale, which starts at 2**16: after 20 of them, a sound run's gradients fit.
SKIPPED_STEPS = 20


class DivergenceCheck:
    """Looks at a run's numbers when a log entry has brought them to the host, and before anything is saved.

    The steps in between cost nothing: a number that is not finite stays so, in the weights and in the sum of the
    losses, until the next look. fp16 skips steps whose gradients overflow, by design; there only a long row of skipped
    steps counts.

    All processes call each method after the same step, and all of them raise.

    Args:
        args: the run's arguments.
        total: sums a float tensor over all processes.
    """

    def __init__(self, args: MocleTrainingArguments, total: Callable[[Tensor], Tensor]) -> None:
        self.args, self.total = args, total
        self._loss: Tensor | float | None = None
        self._gradient_norm: Tensor | float | None = None
        self._skipped = 0
        self._counted = -1

    def after_step(self, step: int, loss: Tensor, gradient_norm: Tensor | float | None, skipped: bool) -> None:
        """Count skipped steps, and keep the numbers for the next look. A step may be reported more than once.

        Args:
            step: how many optimizer steps the run has taken.
            loss: sum of the losses since the last log entry. Not copied: `Trainer` adds to it in place.
            gradient_norm: of this step.
            skipped: fp16's gradients overflowed, and the step was left out.

        Raises:
            DivergenceError: `SKIPPED_STEPS` steps in a row were skipped.
        """
        self._loss, self._gradient_norm = loss, gradient_norm
        if step == self._counted:
            return
        self._counted = step
        self._skipped = self._skipped + 1 if skipped else 0
        if self._skipped >= SKIPPED_STEPS:
            raise self._diverged(step, f"the gradients of {self._skipped} steps in a row were out of fp16's range")

    def after_log(self, step: int, logs: Mapping[str, float]) -> None:
        """Look at a log entry's loss (a mean over all processes) and gradient norm.

        Raises:
            DivergenceError: one of them is not finite.
        """
        if "loss" not in logs or self.args.fp16:
            return
        names = {"loss": "loss", "grad_norm": "gradient norm"}
        wrong = [f"{name} {logs[key]}" for key, name in names.items() if not math.isfinite(logs.get(key, 0.0))]
        if wrong:
            raise self._diverged(step, " and ".join(wrong))

    def before_saving(self, step: int, parameters: Iterable[nn.Parameter]) -> None:
        """Look at the trained ones of these parameters, and at the loss and gradient norm of the last steps.

        Raises:
            DivergenceError: any of them is not finite, on any process.
        """
        # Under ZeRO-3 a process holds its part of each parameter in `ds_tensor`.
        parts = [getattr(value, "ds_tensor", value).detach() for value in parameters if value.requires_grad]
        checks = {"a trained weight": parts}
        if not self.args.fp16:
            numbers = {"the loss": self._loss, "the gradient norm": self._gradient_norm}
            checks |= {name: [] if value is None else [torch.as_tensor(value)] for name, value in numbers.items()}
        # One transfer to the host, and the same answer on all processes.
        flags = torch.stack([_count_not_finite(values, self.args.device) for values in checks.values()])
        counts = self.total(flags).tolist()
        wrong = [name for name, count in zip(checks, counts, strict=True) if count]
        if wrong:
            raise self._diverged(step, f"{', '.join(wrong)}: not a finite number")

    def _diverged(self, step: int, what: str) -> DivergenceError:
        folder = Path(str(self.args.output_dir))
        newest = on_main(lambda: newest_checkpoint(folder))
        kept = f"{newest} is the last whole checkpoint" if newest else f"{folder} holds no checkpoint"
        other = ", bf16 in place of fp16" if self.args.fp16 else ""
        return DivergenceError(
            f"step {step}: {what}; the run stops and saves nothing of it ({kept}). Start again in "
            f"another output_dir with a lower learning_rate (now {self.args.learning_rate:g}), a smaller max_grad_norm "
            f"(now {self.args.max_grad_norm:g}){other}, or a longer warm-up"
        )


def _count_not_finite(values: list[Tensor], device: torch.device) -> Tensor:
    """How many of these tensors hold a number that is not finite, as a float on the device, without waiting for it."""
    flags = [(~torch.isfinite(value).all()).to(device) for value in values]
    return torch.stack(flags).sum().float() if flags else torch.zeros((), device=device)
