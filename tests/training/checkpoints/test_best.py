"""The best checkpoint is the one with the lowest loss, while a run lasts, goes on, and after it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerState

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.checkpoints.best import recall_best
from llava_mocle.training.run import train

METRIC = "eval_loss_geometry"
FALLING = {
    "max_steps": 6,
    "learning_rate": 0.002,
    "lr_scheduler_type": "constant",
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": METRIC,
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def losses(trainer, metric: str = METRIC) -> dict[int, float]:
    return {entry["step"]: entry[metric] for entry in trainer.state.log_history if metric in entry}


@pytest.fixture
def geometry(mix: list[dict]) -> list[dict]:
    """The name of a dataset stands in the metric's."""
    return [mix[0] | {"name": "geometry"}]


@pytest.fixture
def falling(recipe_file, geometry: list[dict], tmp_path: Path):
    return recipe_file(datasets=geometry, adapter="lora", cluster_model=None, **FALLING)


def test_the_last_step_is_the_best_of_a_run_whose_loss_falls(falling: Path, tmp_path: Path) -> None:
    trainer = train(load_recipe(falling))
    found = losses(trainer)
    assert list(found) == [2, 4, 6]
    assert found[2] > found[4] > found[6]
    assert trainer.state.best_model_checkpoint == str(tmp_path / "run" / "checkpoint-6")
    assert trainer.state.best_metric == found[6]
    assert same(tmp_path / "run", tmp_path / "run" / "checkpoint-6")


def test_a_schedule_follows_the_loss_down(falling: Path) -> None:
    """As long as the loss falls, the rate stays; where it rises, it is lowered."""
    words = ["--lr_scheduler_type", "reduce_lr_on_plateau", "--lr_scheduler_kwargs", '{"patience": 0, "factor": 0.5}']
    trainer = train(load_recipe(falling, words))
    found = losses(trainer)
    assert found[2] > found[4] > found[6]
    assert trainer.lr_scheduler.get_last_lr()[0] == 0.002


def test_a_metric_without_a_row_is_told_before_the_first_step(falling: Path, tmp_path: Path, mix, clusters) -> None:
    """All held-out rows of `sums` are in one cluster: the other cluster has no loss."""
    words = ["--adapter", "mocle", "--cluster_model", str(clusters)]
    words += ["--datasets", json.dumps(mix[1:])]
    words += ["--cluster_assignments", str(clusters / "assignments.parquet")]
    refused = []
    for cluster in (0, 1):
        more = ["--metric_for_best_model", f"eval_loss_cluster_{cluster}", "--output_dir", str(tmp_path / str(cluster))]
        try:
            train(load_recipe(falling, [*words, *more]))
        except ConfigError as error:
            refused.append(str(error))
    (said,) = refused
    assert "expected one that has a held-out row: eval_loss, eval_loss_sums, eval_loss_cluster_" in said


def state_of(folder: Path, losses: dict[int, float], best: int | None, **more: object) -> TrainerState:
    history = [{"step": step, METRIC: loss, "eval_loss": -loss} for step, loss in losses.items()]
    metric = losses[best] if best is not None else None
    checkpoint = str(folder / f"checkpoint-{best}") if best is not None else None
    state = TrainerState(log_history=history, best_metric=metric, best_global_step=best, **more)
    state.best_model_checkpoint = checkpoint
    return state


def recalled(folder: Path, state: TrainerState, metric: str | None = METRIC, load: bool = True) -> tuple:
    args = SimpleNamespace(output_dir=str(folder), metric_for_best_model=metric, load_best_model_at_end=load)
    recall_best(state, args)
    name = Path(state.best_model_checkpoint).name if state.best_model_checkpoint else None
    return state.best_metric, state.best_global_step, name


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    return tmp_path


def test_what_holds_stays(kept: Path) -> None:
    assert recalled(kept, state_of(kept, {2: 3.0, 4: 2.0}, best=4)) == (2.0, 4, "checkpoint-4")
    assert recalled(kept, state_of(kept, {}, best=None)) == (None, None, None)
    # A loss between two checkpoints is the one to beat, while a run lasts.
    assert recalled(kept, state_of(kept, {2: 3.0, 3: 1.0, 4: 2.0}, best=3), load=False) == (1.0, 3, None)


def test_a_folder_that_was_moved(kept: Path) -> None:
    state = state_of(kept / "elsewhere", {2: 2.0, 4: 3.0}, best=2)
    assert recalled(kept, state) == (2.0, 2, "checkpoint-2")


def test_a_best_checkpoint_that_is_gone(kept: Path) -> None:
    assert recalled(kept, state_of(kept, {1: 1.0, 2: 3.0, 4: 2.0}, best=1)) == (2.0, 4, "checkpoint-4")


def test_another_metric(kept: Path) -> None:
    """What was lowest by one is not by the other; a run that took the highest for the best is set right too."""
    state = state_of(kept, {2: 3.0, 4: 2.0}, best=4)
    assert recalled(kept, state, "eval_loss") == (-3.0, 2, "checkpoint-2")
    assert recalled(kept, state_of(kept, {2: 3.0, 4: 2.0}, best=2)) == (2.0, 4, "checkpoint-4")


def test_of_equals_the_first(kept: Path) -> None:
    assert recalled(kept, state_of(kept, {2: 2.0, 4: 2.0}, best=None)) == (2.0, 2, "checkpoint-2")
