"""Runs whose datasets are drawn by weight."""

import json
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llava_mocle.data.row_dataset import RowDataset
from llava_mocle.errors import ConfigError, DataError
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train
from tests.training.ranks import history, run


def weighted(mix: list[dict], *weights: float | str) -> list[dict]:
    """The datasets with weights in place of their repeats."""
    pairs = zip(mix, weights, strict=True)
    return [{key: spec[key] for key in spec if key != "repeat"} | {"weight": weight} for spec, weight in pairs]


@pytest.fixture
def met(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(dataset, row) of every sample that is loaded, in order."""
    seen: list[tuple[int, int]] = []
    load = RowDataset._load

    def noted(self: RowDataset, dataset: int, row_index: int):
        seen.append((dataset, row_index))
        return load(self, dataset, row_index)

    monkeypatch.setattr(RowDataset, "_load", noted)
    return seen


def test_a_run_meets_datasets_by_weight_and_goes_on_to_the_bit(
    recipe_file, mix: list[dict], tmp_path: Path, met: list[tuple[int, int]]
) -> None:
    """20 steps of 4 at 3 : 1 are 60 samples of 25 pictures and 20 of 24 sums: 2 or 3 times each, and once at most."""
    keys = {"datasets": weighted(mix, 3, 1), "max_steps": 20, "num_train_epochs": 1}
    whole = train(load_recipe(recipe_file(**keys, output_dir=str(tmp_path / "whole"))))
    order = list(met)
    assert whole.state.global_step == 20
    assert Counter(dataset for dataset, _ in order) == {0: 60, 1: 20}
    times = Counter(order)
    assert {times[0, row] for row in range(25)} == {2, 3}
    assert {times[1, row] for row in range(24)} == {0, 1}
    met.clear()
    recipe = recipe_file(**keys)
    train(load_recipe(recipe, ["--stop_after_steps", "7"]))
    first = met[: 7 * 4]  # what a loader has fetched beyond the last step is not trained on
    met.clear()
    train(load_recipe(recipe))
    assert first + met == order
    assert history(tmp_path / "run") == history(tmp_path / "whole")
    either = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("run", "whole")]
    assert either[0].keys() == either[1].keys()
    assert all(either[0][name].equal(either[1][name]) for name in either[0])


def test_weights_need_steps(recipe_file, mix: list[dict]) -> None:
    recipe = recipe_file(datasets=weighted(mix, "sqrt_size", "sqrt_size"), max_steps=-1)
    with pytest.raises(ConfigError, match="max_steps is -1, but dataset 'pictures' is drawn by weight"):
        train(load_recipe(recipe))


def test_other_weights_are_another_recipe(recipe_file, mix: list[dict]) -> None:
    train(load_recipe(recipe_file(datasets=weighted(mix, 3, 1)), ["--stop_after_steps", "2"]))
    with pytest.raises(ConfigError, match=r"another recipe \(datasets: "):
        train(load_recipe(recipe_file(datasets=weighted(mix, 3, 2))))


def test_a_dataset_whose_rows_are_all_too_long(recipe_file, mix: list[dict], tmp_path: Path) -> None:
    """With a picture, a row takes more than the 40 tokens that it may have here."""
    rows = [row for row in json.loads(Path(mix[0]["data_path"]).read_text()) if "image" in row]
    (tmp_path / "all.json").write_text(json.dumps(rows))
    datasets = weighted([mix[0] | {"data_path": str(tmp_path / "all.json")}, mix[1]], 3, 1)
    recipe = recipe_file(datasets=datasets, model_max_length=40, adapter="lora", cluster_model=None)
    with pytest.raises(DataError, match=r"all\.json: dataset 'pictures' has weight 3, but none of its rows fits"):
        train(load_recipe(recipe))


@pytest.mark.slow
def test_two_processes_equal_one(recipe_file, mix: list[dict], tmp_path: Path) -> None:
    """Sums over two ranks in another order: 1e-6 is eight units in float32's last place."""
    # Without gate noise, of which each rank draws its own.
    recipe = recipe_file(datasets=weighted(mix, "sqrt_size", 2), max_steps=6, gate_noise_std=0.0)
    runs = []
    for count in (1, 2):
        output = tmp_path / f"of_{count}"
        words = ["--output_dir", str(output), "--per_device_train_batch_size", str(4 // count)]
        run(tmp_path / f"logs_{count}", recipe, *words, count=count)
        runs.append(history(output))
    assert len(runs[0]) == 6
    for alone, together in zip(*runs, strict=True):
        assert together == pytest.approx(alone, rel=1e-6)
