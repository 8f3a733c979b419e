"""SIGTERM, SIGUSR1 or Ctrl-C: end the step, save, and leave with an exit code that asks for the same command again."""

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from llava_mocle.errors import Interrupted, Preempted
from llava_mocle.training.loop.callbacks import StopEarly
from llava_mocle.training.processes.early_signals import CTRL_C, handling, name_of


class ValidationCutOff(Exception):
    """A signal came during a validation pass, which takes longer than a scheduler may wait."""


class Preemption(StopEarly):
    """Stops at the end of a step, or in the middle of a validation pass, in which any rank got a signal.

    Args:
        resume: the recipe's key of that name, for messages.

    Attributes:
        signal_name: the signal this rank got; None before that.
        has_steps: whether a step is being taken, which the run waits for; before that there is nothing to save.
    """

    def __init__(self, resume: str = "auto") -> None:
        super().__init__()
        self.signal_name: str | None = None
        self.has_steps = False
        self.resume = resume
        self._alone = os.environ.get("WORLD_SIZE", "1") == "1"

    @property
    def command(self) -> str:
        """The command that goes on from the checkpoint, in words."""
        return "the same command" + (" with --resume auto" if self.resume == "never" else "")

    def watching(self) -> AbstractContextManager[None]:
        """Handle the signals inside the block. In another thread than the main one, which cannot, do nothing."""
        return handling(self._note)

    @contextmanager
    def before_steps(self) -> Iterator[None]:
        """Inside the block, Ctrl-C before the first step is told as an interruption that loses nothing."""
        try:
            yield
        except KeyboardInterrupt:
            if self.has_steps or self.signal_name != CTRL_C:
                raise
            raise Interrupted(
                f"interrupted by {CTRL_C} before the first step: nothing was lost, and {self.command} goes on"
            ) from None

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.signal_name is not None
        if not again:
            self.signal_name = name_of(number)
            once_more = f"; once more {CTRL_C} stops at once, without a checkpoint" if number == signal.SIGINT else ""
            if number == signal.SIGINT and not self.has_steps and self._alone:
                raise KeyboardInterrupt  # other ranks would wait for this one
            # Not print: the handler may run in the middle of one.
            os.write(2, f"{self.signal_name}: saving as soon as this step is done, then leaving{once_more}\n".encode())
        elif number == signal.SIGINT and self.signal_name == CTRL_C:
            raise KeyboardInterrupt

    def requested(self, device: torch.device) -> bool:
        """Whether any rank got a signal. All ranks ask together."""
        own = self.signal_name is not None
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return own
        requested = torch.tensor(int(own), device=device)
        dist.all_reduce(requested, op=dist.ReduceOp.MAX)
        return bool(requested.item())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """All ranks stop at the same step, whichever of them got the signal."""
        return self.stop(control) if self.requested(args.device) and state.global_step < state.max_steps else control

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Raises `ValidationCutOff` if any rank got a signal: on all ranks, after the same batch."""
        if self.requested(args.device):
            raise ValidationCutOff
        return control

    def error(self, checkpoint: Path | None, step: int) -> Preempted:
        """The error that ends the run.

        Args:
            checkpoint: what was written; None if no step has been taken since the run began.
            step: how many steps the run has taken.
        """
        done = f"{checkpoint} was written after step {step}" if checkpoint else f"nothing was lost (step {step})"
        if self.signal_name == CTRL_C:
            return Interrupted(f"interrupted by {CTRL_C}: {done}; {self.command} goes on from there")
        return Preempted(
            f"{self.signal_name or 'a signal to another rank'} came: {done}; {self.command} goes on from there"
        )
