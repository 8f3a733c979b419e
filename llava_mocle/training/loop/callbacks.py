"""What a person watching a run sees, and stopping early on purpose."""

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

_TRAINING_KEYS = {"loss": "loss", "learning_rate": "lr", "grad_norm": "grad"}


def console_line(step: int, logs: Mapping[str, Any]) -> str:
    """One readable line of a log entry; the whole entry is in trainer_state.json and TensorBoard."""
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
        """See `TrainerCallback`."""
        if state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.write(console_line(state.global_step, logs or {}))


class ConsoleLines(TrainerCallback):
    """The lines alone, where progress bars are switched off."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        if state.is_world_process_zero:
            print(console_line(state.global_step, logs or {}), flush=True)


class StopEarly(TrainerCallback):
    """Save and stop, without a validation pass first, leaving the learning-rate schedule as it is.

    Attributes:
        stopped: whether the run was stopped by this.
    """

    def __init__(self) -> None:
        self.stopped = False

    def stop(self, control: Any) -> Any:
        """What `on_step_end` returns to stop after this step."""
        self.stopped = True
        control.should_save = control.should_training_stop = True
        # An evaluation would come first: a scheduler may not wait for it, and it may decide to save nothing.
        control.should_evaluate = False
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """See `TrainerCallback`. `Trainer` comes here on its way out of a stopped run, as at any epoch's end."""
        if self.stopped:
            control.should_evaluate = control.should_save = control.should_log = False
        return control


class StopAfterSteps(StopEarly):
    """Stops at a step that was chosen beforehand."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """See `TrainerCallback`."""
        return self.stop(control) if self.steps <= state.global_step < state.max_steps else control


def replace_console(trainer: Any) -> None:
    """Put our console output in place of `Trainer`'s."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ConsoleLines if trainer.args.disable_tqdm else ConsoleProgress)
