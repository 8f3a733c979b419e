"""Signals: noticed, and during a validation pass too; a checkpoint is written, and nothing of the run changes."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState

from llava_mocle.cli.main import main
from llava_mocle.errors import Preempted
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.loop.preemption import Preemption, ValidationCutOff
from llava_mocle.training.loop.trainer import MocleTrainer
from llava_mocle.training.run import train

CPU = SimpleNamespace(device=torch.device("cpu"))


def test_the_first_signal_is_noted_and_the_old_handlers_come_back(capfd) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    preemption = Preemption()
    with preemption.watching():
        assert not preemption.requested(CPU.device)
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        assert preemption.requested(CPU.device)
    assert preemption.signal_name == "SIGUSR1"
    assert capfd.readouterr().err == "SIGUSR1: saving as soon as this step is done, then leaving\n"
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_a_step_after_a_signal_stops_the_run_unless_it_is_the_last() -> None:
    preemption = Preemption()
    state = TrainerState(global_step=2, max_steps=4)
    assert not preemption.on_step_end(CPU, state, TrainerControl()).should_training_stop
    preemption.on_prediction_step(CPU, state, TrainerControl())
    preemption.signal_name = "SIGTERM"
    last = TrainerState(global_step=4, max_steps=4)
    assert not preemption.on_step_end(CPU, last, TrainerControl()).should_training_stop
    assert not preemption.stopped
    control = preemption.on_step_end(CPU, state, TrainerControl(should_evaluate=True))
    assert (control.should_training_stop, control.should_save, control.should_evaluate) == (True, True, False)
    with pytest.raises(ValidationCutOff):
        preemption.on_prediction_step(CPU, state, TrainerControl())


def test_the_error_says_what_goes_on_from_where() -> None:
    preemption = Preemption(resume="never")
    said = str(preemption.error(Path("run/checkpoint-7"), 7))
    assert said == (
        "a signal to another rank came: run/checkpoint-7 was written after step 7; the same command with --resume auto "
        "goes on from there"
    )
    preemption = Preemption()
    preemption.signal_name = "SIGTERM"
    assert str(preemption.error(None, 0)).startswith(
        "SIGTERM came: nothing was lost (step 0); the same command goes on"
    )


def test_ctrl_c_is_called_by_its_name(capfd) -> None:
    preemption = Preemption()
    preemption.has_steps = True
    with preemption.watching():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # as launchers add it: not a second Ctrl-C
        assert preemption.requested(CPU.device)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    said = capfd.readouterr().err
    assert said == (
        "Ctrl-C: saving as soon as this step is done, then leaving; once more Ctrl-C stops at once, without a "
        "checkpoint\n"
    )
    error = preemption.error(Path("run/checkpoint-7"), 7)
    assert (error.exit_code, error.label) == (75, "")
    assert str(error) == (
        "interrupted by Ctrl-C: run/checkpoint-7 was written after step 7; the same command goes on from there"
    )


def test_a_script_passes_ctrl_c_on_as_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """It leaves a note in the file for the exit code."""
    exit_file = tmp_path / "exit"
    monkeypatch.setenv("LLAVA_MOCLE_EXIT_FILE", str(exit_file))
    for note, name in {"Ctrl-C\n": "Ctrl-C", "": "SIGTERM"}.items():
        exit_file.write_text(note)
        preemption = Preemption()
        with preemption.watching():
            signal.raise_signal(signal.SIGTERM)
        assert preemption.signal_name == name
        assert capfd.readouterr().err == f"{name}: saving as soon as this step is done, then leaving\n"


def test_before_the_first_step_ctrl_c_does_not_wait(recipe_file, tmp_path: Path, monkeypatch, capsys) -> None:
    """A model that loads for minutes is not waited for."""

    def load(*args: object) -> None:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the model was waited for")

    monkeypatch.setattr("llava_mocle.training.run.load_start", load)
    assert main(["train", str(recipe_file())]) == 75
    assert capsys.readouterr().err == (
        "interrupted by Ctrl-C before the first step: nothing was lost, and the same command goes on\n"
    )


class Signalled:
    """Counts validation batches, and sends this process a signal in one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches, self.at = 0, 0
        whole = MocleTrainer.prediction_step

        def step(trainer: MocleTrainer, *args, **kwargs):
            self.batches += 1
            if self.batches == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
            return whole(trainer, *args, **kwargs)

        monkeypatch.setattr(MocleTrainer, "prediction_step", step)


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Signalled:
    return Signalled(monkeypatch)


def history(trainer: MocleTrainer, key: str) -> dict[int, float]:
    return {entry["step"]: entry[key] for entry in trainer.state.log_history if key in entry}


def test_a_validation_pass_is_given_up(recipe_file, tmp_path: Path, signalled: Signalled, monkeypatch, capsys) -> None:
    keys = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 1, "save_strategy": "no"}
    whole = train(load_recipe(recipe_file(output_dir=str(tmp_path / "whole"), **keys)))
    a_pass = signalled.batches // 2
    assert a_pass > 2
    recipe = recipe_file(output_dir=str(tmp_path / "parts"), **keys)
    exit_file = tmp_path / "exit"
    monkeypatch.setenv("LLAVA_MOCLE_EXIT_FILE", str(exit_file))
    signalled.batches, signalled.at = 0, 2
    assert main(["train", str(recipe)]) == 75
    assert "checkpoint-2 was written after step 2" in capsys.readouterr().err
    assert signalled.batches == 2
    assert exit_file.read_text() == "75\n"
    signalled.at = 0
    resumed = train(load_recipe(recipe))
    assert history(resumed, "loss") == history(whole, "loss")
    # The pass at step 2 is not made up for: the run goes on with step 3.
    assert history(resumed, "eval_loss") == {4: history(whole, "eval_loss")[4]}


def test_the_last_pass_too(recipe_file, tmp_path: Path, signalled: Signalled) -> None:
    keys = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 1}
    recipe = recipe_file(**keys)
    signalled.at = 1
    with pytest.raises(Preempted, match="checkpoint-1 was written"):
        train(load_recipe(recipe))
    signalled.at = 0
    train(load_recipe(recipe))
    assert (tmp_path / "run" / "adapter_model.safetensors").exists()


def test_a_pass_before_the_first_step(recipe_file, tmp_path: Path, signalled: Signalled) -> None:
    signalled.at = 1
    keys = {"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True, "per_device_eval_batch_size": 1}
    with pytest.raises(Preempted, match=r"nothing was lost \(step 0\)"):
        train(load_recipe(recipe_file(**keys)))
    assert not list((tmp_path / "run").glob("checkpoint-*"))
