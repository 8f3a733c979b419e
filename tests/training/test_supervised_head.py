"""Whole runs whose head computes what is supervised, against runs that compute the logits of all tokens."""

import json
from pathlib import Path

import pytest

from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train
from tests.training.ranks import ZERO, history, run

STEPS = {"max_steps": 20, "eval_strategy": "steps", "eval_steps": 10, "gate_noise_std": 0.0, "learning_rate": 0.003}
# Float32 sums in another order, carried on over 20 steps.
CURVE = 1e-5
FLOAT32 = 1e-6


def held_out(folder: Path) -> list[dict[str, float]]:
    """The losses of every validation pass."""
    entries = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [
        {key: value for key, value in entry.items() if key.startswith("eval_loss")}
        for entry in entries
        if "eval_loss" in entry
    ]


@pytest.fixture
def plain(recipe_file, tmp_path: Path) -> Path:
    """The folder of a run in one process, with a validation as it is without any of the fast ways."""
    folder = tmp_path / "plain"
    options = {"supervised_head": False, "per_device_eval_batch_size": 3, "eval_rows": 0, "output_dir": str(folder)}
    trainer = train(load_recipe(recipe_file(**STEPS, **options)))
    assert trainer.supervision.head is None
    assert len(held_out(folder)) == 2
    return folder


@pytest.mark.parametrize("checkpointing", [False, True])
def test_twenty_steps(checkpointing: bool, plain: Path, recipe_file, tmp_path: Path) -> None:
    keys = STEPS | {"gradient_checkpointing": checkpointing, "output_dir": str(tmp_path / "fast")}
    trainer = train(load_recipe(recipe_file(**keys)))
    assert trainer.supervision.head is not None
    assert trainer.args.per_device_eval_batch_size == 10  # all in one batch, of at most 16
    for found, expected in zip(history(tmp_path / "fast"), history(plain), strict=True):
        assert found == pytest.approx(expected, rel=CURVE)
    for now, before in zip(held_out(tmp_path / "fast"), held_out(plain), strict=True):
        assert now == pytest.approx(before, rel=CURVE)
        assert len(now) >= 4


def test_stage_1(recipe_file, tmp_path: Path) -> None:
    for name, head in {"fast": True, "plain": False}.items():
        keys = {"stage": "pretrain", "max_steps": 6, "output_dir": str(tmp_path / name), "supervised_head": head}
        trainer = train(load_recipe(recipe_file(**keys)))
        assert (trainer.supervision.head is not None) == head
    for found, expected in zip(history(tmp_path / "fast"), history(tmp_path / "plain"), strict=True):
        assert found == pytest.approx(expected, rel=FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [None, 2, 3], ids=["ddp", "zero2", "zero3"])
def test_twenty_steps_and_validation_on_two_processes(
    zero: int | None, plain: Path, recipe_file, tmp_path: Path
) -> None:
    """10 held-out rows are no whole number of batches of 3 a process: fillers make the last one whole."""
    recipe = recipe_file(
        **STEPS | {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 3, "gradient_checkpointing": True}
    )
    words = ["--deepspeed", ZERO[zero]] if zero else []
    run(tmp_path / "logs", recipe, "--output_dir", str(tmp_path / "two"), *words, count=2)
    for found, expected in zip(history(tmp_path / "two"), history(plain), strict=True):
        assert found == pytest.approx(expected, rel=CURVE)
    for now, before in zip(held_out(tmp_path / "two"), held_out(plain), strict=True):
        assert now == pytest.approx(before, rel=CURVE)


def test_rows_of_a_pass_are_some_and_the_same_each_time(recipe_file, tmp_path: Path, capsys) -> None:
    keys = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "eval_rows": 3, "learning_rate": 0.0}
    train(load_recipe(recipe_file(**keys, mm_projector_lr=0.0, gate_noise_std=0.0, output_dir=str(tmp_path / "few"))))
    first, second = held_out(tmp_path / "few")
    assert first == second
    assert {"eval_loss_pictures", "eval_loss_sums", "eval_loss_cluster_0", "eval_loss_cluster_1"} <= first.keys()
    assert "validating on 3 of 10 held-out rows each time" in capsys.readouterr().out
