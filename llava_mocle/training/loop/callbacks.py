"""Callbacks: what a person who watches a run sees, how often things happen, and stopping early on purpose."""

import time
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from llava_mocle.io.progress import LINE_EVERY_S
from llava_mocle.training.checkpoints.best import recall_best

_TRAINING_KEYS = {"loss": "loss", "learning_rate": "lr", "grad_norm": "grad"}


def console_line(step: int, logs: Mapping[str, Any]) -> str:
    """A log entry as one short line; the whole entry is in trainer_state.json and TensorBoard."""
    if "loss" in logs:
        parts = [f"{label} {float(logs[key]):.4g}" for key, label in _TRAINING_KEYS.items() if key in logs]
        gates = [float(value) for key, value in logs.items() if key.startswith("routing/") and key.endswith("/gate")]
        if gates:
            parts.append(f"gate {sum(gates) / len(gates):.2f}")
            parts.append(f"noise overturned {100 * float(logs['routing/overturned']):.0f} %")
    elif "eval_loss" in logs:
        losses = {key.removeprefix("eval_"): value for key, value in logs.items() if key.startswith("eval_loss")}
        parts = ["held out:", *(f"{key.replace('loss_', '')} {float(value):.4g}" for key, value in losses.items())]
    elif "train_runtime" in logs:
        parts = [f"done in {float(logs['train_runtime']):.0f} s, mean loss {float(logs['train_loss']):.4g}"]
    else:
        parts = [f"{key} {value}" for key, value in logs.items()]
    return f"step {step:>5}  " + "  ".join(parts)


class ConsoleProgress(ProgressCallback):
    """The progress bar, with one short line a log entry."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.write(console_line(state.global_step, logs or {}))


class ConsoleLines(TrainerCallback):
    """The same lines without a bar: where `disable_tqdm` switches it off, or nobody watches a terminal.

    If no log entry comes for half a minute, a line says how far the steps or the validation are.
    """

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._validated = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self._say(state, console_line(state.global_step, logs or {}))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._silent():
            self._say(state, f"step {state.global_step:>5}  of {state.max_steps}")

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        self._validated += 1
        if self._silent():
            batches = len(eval_dataloader)
            self._say(state, f"step {state.global_step:>5}  held out: batch {self._validated} of {batches}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._validated = 0

    def _silent(self) -> bool:
        return time.monotonic() - self._said >= LINE_EVERY_S

    def _say(self, state: Any, line: str) -> None:
        self._said = time.monotonic()
        if state.is_world_process_zero:
            print(line, flush=True)


class OwnIntervals(TrainerCallback):
    """How often to log, save and evaluate is taken from this command, not from the checkpoint it goes on from."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.compute_steps(args, state.max_steps)


class OwnBest(TrainerCallback):
    """Which checkpoint is the best so far is decided by this command's metric, among the checkpoints that are there."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        recall_best(state, args)


class StopEarly(TrainerCallback):
    """Saves and stops, without a validation pass first. The learning-rate schedule stays that of the whole run.

    Attributes:
        stopped: whether this callback has stopped the run.
    """

    def __init__(self) -> None:
        self.stopped = False

    def stop(self, control: Any) -> Any:
        """Have `Trainer` save and stop after this step; returns the control for `on_step_end` to return."""
        self.stopped = True
        control.should_save = control.should_training_stop = True
        # An evaluation would come before the save: it can take longer than a scheduler waits, and with save_strategy
        # "best" it can decide to save nothing.
        control.should_evaluate = False
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """`Trainer` ends the epoch of a stopped run too, and would evaluate and save again."""
        if self.stopped:
            control.should_evaluate = control.should_save = control.should_log = False
        return control


class StopAfterSteps(StopEarly):
    """Stops after `stop_after_steps` steps, unless they are all."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        return self.stop(control) if self.steps <= state.global_step < state.max_steps else control
