"""SIGTERM or SIGUSR1: end the step, save, and leave with an exit code that says "requeue me"."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from llava_mocle.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# torchrun and the deepspeed launcher turn every exit code of a worker into 1: the scripts read it from this file.
EXIT_FILE = "LLAVA_MOCLE_EXIT_FILE"


class Preemption(TrainerCallback):
    """Saves and stops at the end of a step in which any rank was told to go.

    Attributes:
        signal_name: the signal this rank got; None before that.
        stopped: whether the run was stopped by it.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self.stopped = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Handle the signals inside the block. Only the main thread may install handlers: elsewhere, do nothing."""
        try:
            before = {number: signal.signal(number, self._note) for number in SIGNALS}
        except ValueError:
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name is None:
            self.signal_name = signal.Signals(number).name
            # Not print: the handler may run in the middle of one.
            os.write(2, f"{self.signal_name}: saving after this step, then leaving\n".encode())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """See `TrainerCallback`. All ranks stop at the same step, whichever of them got the signal."""
        told = torch.tensor(int(self.signal_name is not None), device=args.device)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(told, op=dist.ReduceOp.MAX)
        if told.item() and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = control.should_training_stop = True
        return control

    def error(self, step: int, max_steps: int, output_dir: str) -> Preempted:
        """What to raise once the checkpoint is there; leaves the exit code where the launch scripts look for it."""
        path = os.environ.get(EXIT_FILE)
        if path:
            Path(path).write_text(f"{Preempted.exit_code}\n")
        return Preempted(
            f"{self.signal_name or 'a signal to another rank'} came, so checkpoint-{step} of {max_steps} steps was "
            f"written to {output_dir}; the same command goes on from it"
        )
