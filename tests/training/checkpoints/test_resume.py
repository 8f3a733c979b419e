"""`resume`: a named checkpoint is where a run begins, and a stopped one goes on from what came of it."""

from pathlib import Path

import pytest
import torch
import yaml

from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.checkpoints.contents import check_same_recipe
from llava_mocle.training.checkpoints.manifest import write_manifest
from llava_mocle.training.checkpoints.resume import checkpoint_to_resume, restore_schedule, start_name
from llava_mocle.training.loop.trainer import MocleTrainer
from llava_mocle.training.run import train


def make(folder: Path, step: int, start: str = "auto") -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    write_manifest(checkpoint, start=start)
    return checkpoint


def test_where_to_go_on_from(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    assert checkpoint_to_resume("auto", own) is None
    assert checkpoint_to_resume("never", own) is None
    named = make(other, 3)
    assert checkpoint_to_resume(str(named), own) == named
    newest = [make(own, step, start=start_name(str(named))) for step in (4, 5)][-1]
    assert checkpoint_to_resume("auto", own) == newest
    assert checkpoint_to_resume(str(named), own) == newest  # which came of it
    assert checkpoint_to_resume(str(own / "checkpoint-4"), own) == own / "checkpoint-4"
    with pytest.raises(CheckpointError, match="holds checkpoint-5, and `resume` is never; --resume auto"):
        checkpoint_to_resume("never", own)
    with pytest.raises(CheckpointError, match="holds checkpoint-5, which was not reached from"):
        checkpoint_to_resume(str(make(other, 6)), own)
    with pytest.raises(CheckpointError, match=r"no whole checkpoint to resume from .*auto or never"):
        checkpoint_to_resume(str(tmp_path / "nowhere"), own)


def test_a_restored_schedule_sets_the_rates_of_the_next_step(tmp_path: Path) -> None:
    def make_pair() -> tuple:
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    optimizer, schedule = make_pair()
    for _ in range(2):
        optimizer.step()
        schedule.step()
    torch.save(schedule.state_dict(), tmp_path / "scheduler.pt")
    optimizer, schedule = make_pair()
    assert optimizer.param_groups[0]["lr"] == 1.0
    restore_schedule(tmp_path, schedule, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.25


def steps(trainer: MocleTrainer) -> list[int]:
    return [entry["step"] for entry in trainer.state.log_history if "loss" in entry]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


@pytest.fixture
def first(recipe_file, tmp_path: Path) -> Path:
    """A run with checkpoints at steps 1 to 4."""
    path = recipe_file(output_dir=str(tmp_path / "first"), save_strategy="steps", save_steps=1)
    train(load_recipe(path))
    return path


def test_a_stopped_branch_goes_on_with_the_same_command(first: Path, tmp_path: Path) -> None:
    words = ["--resume", str(tmp_path / "first" / "checkpoint-1"), "--output_dir", str(tmp_path / "branch")]
    train(load_recipe(first, [*words, "--stop_after_steps", "3", "--save_strategy", "no"]))
    assert names(tmp_path / "branch") == ["checkpoint-3"]
    rest = train(load_recipe(first, [*words, "--save_strategy", "no"]))
    assert rest.state.global_step == 4
    assert rest.resumption is not None
    assert rest.resumption.folder == tmp_path / "branch" / "checkpoint-3"
    # `auto` keeps what the run began with, so that its command may be mixed with the named one.
    assert rest.resumption.start == str(tmp_path / "first" / "checkpoint-1")


def test_going_back_puts_the_abandoned_course_aside(first: Path, tmp_path: Path) -> None:
    folder = tmp_path / "first"
    words = ["--resume", str(folder / "checkpoint-2")]
    train(load_recipe(first, [*words, "--stop_after_steps", "3"]))
    assert names(folder) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert names(folder / "abandoned") == ["checkpoint-3", "checkpoint-4"]
    for again in (words, []):  # named or auto: from the new checkpoint 3
        trainer = train(load_recipe(first, again))
        assert trainer.resumption is not None
        assert trainer.resumption.folder.name in ("checkpoint-3", "checkpoint-4")
    assert names(folder / "abandoned") == ["checkpoint-3", "checkpoint-4"]


def test_a_start_that_is_refused_moves_nothing(first: Path, tmp_path: Path) -> None:
    words = ["--resume", str(tmp_path / "first" / "checkpoint-1"), "--learning_rate", "0.5"]
    with pytest.raises(ConfigError, match=r"learning_rate: 0\.\d+ then, 0\.5 now"):
        train(load_recipe(first, words))
    assert names(tmp_path / "first") == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]


def test_a_checkpoint_of_before_a_default_changed(first: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "first" / "checkpoint-4" / "recipe.yaml"
    values = yaml.safe_load(recipe.read_text())
    del values["learning_rate"]
    recipe.write_text(yaml.safe_dump(values | {"logging_nan_inf_filter": True}))
    loaded = load_recipe(first)
    with pytest.raises(ConfigError, match=r"\(learning_rate: 0\.0001 then, 0\.\d+ now\)"):
        check_same_recipe(recipe.parent, loaded, global_batch=4)


def test_never_says_how_to_go_on(recipe_file, tmp_path: Path, caplog) -> None:
    train(load_recipe(recipe_file(resume="never", stop_after_steps=2)))
    assert "the same command with --resume auto without stop_after_steps goes on" in caplog.text


def test_another_runs_folder_is_not_mixed_with(first: Path, recipe_file, tmp_path: Path) -> None:
    other = recipe_file(output_dir=str(tmp_path / "other"), save_strategy="steps", save_steps=2)
    train(load_recipe(other))
    with pytest.raises(CheckpointError, match=r"holds checkpoint-4, which was not reached from .*first/checkpoint-2"):
        train(load_recipe(other, ["--resume", str(tmp_path / "first" / "checkpoint-2")]))
    with pytest.raises(CheckpointError, match="--resume auto goes on from it"):
        train(load_recipe(other, ["--resume", "never"]))
