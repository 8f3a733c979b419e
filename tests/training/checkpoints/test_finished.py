"""A finished run that is started again only has its result written, and takes no step."""

import shutil
from pathlib import Path

import pytest

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.checkpoints.manifest import FINISHED_FILE, read_manifest
from llava_mocle.training.loop.trainer import MocleTrainer
from llava_mocle.training.run import train
from tests.training.checkpoints.test_best import losses, same, weights

# The loss rises after the first checkpoint.
RISING = {
    "max_steps": 4,
    # A rate that grows with every step: the loss at step 4 is about a fifth above that at step 2.
    "learning_rate": 2.0,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 4,
    "seed": 42,
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "load_best_model_at_end": True,
}


@pytest.fixture
def run(recipe_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Train a recipe to its end; then give what starts it again, without a single step."""

    def finish(**keys):
        recipe = recipe_file(**(RISING | keys))
        trainer = train(load_recipe(recipe))
        assert trainer.state.global_step == trainer.state.max_steps

        def again(*words: str):
            with monkeypatch.context() as patch:
                patch.setattr(MocleTrainer, "training_step", no_step)
                return train(load_recipe(recipe, list(words)))

        return trainer, again

    return finish


def no_step(*args: object, **kwargs: object) -> None:
    raise AssertionError("a step was taken")


def best_step(trainer, metric: str = "eval_loss") -> int:
    found = losses(trainer, metric)
    return min(found, key=found.__getitem__)


@pytest.mark.parametrize("limit", [None, 1, 2])
@pytest.mark.parametrize("lost", [None, "adapter_model.safetensors", FINISHED_FILE])
def test_the_best_model_stays_the_result(run, tmp_path: Path, limit: int | None, lost: str | None) -> None:
    """`lost`: what was not written, or damaged, when the run was cut off at its very end."""
    trainer, again = run(save_total_limit=limit)
    folder, best = tmp_path / "run", best_step(trainer)
    assert best < 4
    shutil.copytree(folder, tmp_path / "before")
    if lost:
        (folder / lost).unlink()
    restored = again()
    assert restored.state.global_step == 4
    assert losses(restored, "eval_loss") == losses(trainer, "eval_loss")
    assert same(folder, tmp_path / "before")
    assert same(folder, folder / f"checkpoint-{best}")
    assert read_manifest(folder, FINISHED_FILE)["step"] == 4


def test_stage_1_too(run, tmp_path: Path) -> None:
    trainer, again = run(stage="pretrain", save_total_limit=1)
    result = tmp_path / "run" / "mm_projector.safetensors"
    before = result.read_bytes()
    result.unlink()
    again()
    assert result.read_bytes() == before
    assert before == (tmp_path / "run" / f"checkpoint-{best_step(trainer)}" / result.name).read_bytes()


def test_where_only_better_checkpoints_are_saved(run, tmp_path: Path) -> None:
    """The last step has no checkpoint, so only the result says that the run has ended."""
    keys = {"save_strategy": "best", "load_best_model_at_end": False, "metric_for_best_model": "eval_loss"}
    _, again = run(**keys, save_total_limit=1)
    assert not (tmp_path / "run" / "checkpoint-4").exists()
    before = weights(tmp_path / "run")
    assert again().state.global_step == 4
    after = weights(tmp_path / "run")
    assert all((before[name] == after[name]).all() for name in before)


def test_without_checkpoints(run, recipe_file, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same command finds its result. Another one has nothing to go on from, so it trains."""
    _, again = run(save_strategy="no", load_best_model_at_end=False)
    assert again().state.global_step == 4
    assert "nothing is left to do" in caplog.text
    with pytest.raises(AssertionError, match="a step was taken"):
        again("--learning_rate", "0.1")
    assert "holds the result of another command (learning_rate), which this run replaces" in caplog.text
    assert not (tmp_path / "run" / FINISHED_FILE).exists()


def test_never_trains_again(run) -> None:
    _, again = run(save_strategy="no", load_best_model_at_end=False)
    with pytest.raises(AssertionError, match="a step was taken"):
        again("--resume", "never")


def test_another_choice_of_the_best_writes_another_result(run, tmp_path: Path) -> None:
    trainer, again = run()
    folder = tmp_path / "run"
    assert best_step(trainer) != 4
    again("--load_best_model_at_end", "false")
    assert same(folder, folder / "checkpoint-4")
    again("--metric_for_best_model", "eval_loss_sums")
    assert same(folder, folder / f"checkpoint-{best_step(trainer, 'eval_loss_sums')}")


def test_more_steps_are_another_run(run) -> None:
    _, again = run(save_total_limit=1)
    with pytest.raises(ConfigError, match="max_steps: 4 then, 8 now"):
        again("--max_steps", "8")


def test_other_rows_are_refused_for_a_result_too(run, tmp_path: Path, mix: list[dict]) -> None:
    rows = Path(shutil.copy(mix[1]["data_path"], tmp_path / "sums.json"))
    keys = {"data_path": str(rows), "eval_data_path": None}
    _, again = run(
        datasets=None, adapter="lora", cluster_model=None, save_strategy="no", eval_strategy="no", eval_steps=None,
        load_best_model_at_end=False, **keys,
    )  # fmt: skip
    rows.write_text(rows.read_text().replace("How much is 3 and 3", "How many are 3 and 3"))
    with pytest.raises(ConfigError, match=r"sums\.json: the rows of dataset 'train' are not those"):
        again()


def test_going_back_forgets_the_result(run, tmp_path: Path) -> None:
    """A run that goes back and is cut off is not finished, whatever lies in its folder."""
    _, again = run()
    with pytest.raises(AssertionError, match="a step was taken"):
        again("--resume", str(tmp_path / "run" / "checkpoint-2"))
    with pytest.raises(AssertionError, match="a step was taken"):
        again()
