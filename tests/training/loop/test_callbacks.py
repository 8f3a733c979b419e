"""Console lines, and what an early stop asks of `Trainer`."""

import pytest
from transformers import TrainerControl, TrainerState

from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.loop.callbacks import OwnIntervals, StopAfterSteps, console_line


@pytest.mark.parametrize(
    ("logs", "line"),
    [
        (
            {"loss": 1.23456, "learning_rate": 1e-4, "grad_norm": 0.5, "epoch": 0.1},
            "step     7  loss 1.235  lr 0.0001  grad 0.5",
        ),
        (
            {
                "loss": 1.0,
                "routing/up_proj/gate": 0.6,
                "routing/down_proj/gate": 0.8,
                "routing/overturned": 0.25,
            },
            "step     7  loss 1  gate 0.70  noise overturned 25 %",
        ),
        (
            {"eval_loss": 2.0, "eval_loss_sums": 1.5, "eval_loss_cluster_3": 4.0, "eval_runtime": 9.0},
            "step     7  held out:  loss 2  sums 1.5  cluster_3 4",
        ),
        ({"train_runtime": 61.4, "train_loss": 0.5}, "step     7  done in 61 s, mean loss 0.5"),
        ({"other": 3}, "step     7  other 3"),
    ],
)
def test_a_log_entry_is_one_line(logs: dict, line: str) -> None:
    assert console_line(7, logs) == line


def after(stop: StopAfterSteps, step: int, max_steps: int = 4) -> TrainerControl:
    control = TrainerControl(should_evaluate=True)
    return stop.on_step_end(None, TrainerState(global_step=step, max_steps=max_steps), control)


def test_a_chosen_stop_saves_and_does_not_evaluate() -> None:
    stop = StopAfterSteps(2)
    before = after(stop, 1)
    assert (before.should_training_stop, before.should_save, before.should_evaluate) == (False, False, True)
    assert not stop.stopped
    stopped = after(stop, 2)
    assert (stopped.should_training_stop, stopped.should_save, stopped.should_evaluate) == (True, True, False)
    assert stop.stopped
    # `Trainer` ends the epoch on its way out: everything is done by then.
    asked = TrainerControl(should_evaluate=True, should_save=True, should_log=True)
    asked = stop.on_epoch_end(None, TrainerState(), asked)
    assert [asked.should_evaluate, asked.should_save, asked.should_log] == [False] * 3


def test_the_last_step_is_no_early_stop() -> None:
    stop = StopAfterSteps(4)
    assert not after(stop, 4).should_training_stop
    assert not stop.stopped


def test_intervals_are_this_commands(recipe_file) -> None:
    args = load_recipe(recipe_file(logging_steps=3, save_strategy="steps", save_steps=0.5)).training_arguments()
    state = TrainerState(max_steps=8, logging_steps=1, save_steps=1)  # as a checkpoint had them
    OwnIntervals().on_train_begin(args, state, TrainerControl())
    assert (state.logging_steps, state.save_steps) == (3, 4)
