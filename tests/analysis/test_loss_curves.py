import csv
import json

import pytest
from PIL import Image

from llava_mocle.analysis.loss_curves import _exponential_mean, collect_losses, plot_loss_curves, read_log_history
from llava_mocle.errors import DataError

HISTORY = [
    {"step": 1, "epoch": 0.1, "loss": 3.0, "learning_rate": 1e-3, "routing/up_proj/gate": 0.4},
    {"step": 2, "loss": 2.0},
    {"step": 2, "eval_loss": 2.5, "eval_loss_shapes": 2.25, "eval_loss_cluster_0": 9.0, "eval_runtime": 1.0},
    {"step": 2, "train_loss": 2.5, "train_runtime": 3.0},
]


def test_series_are_told_apart():
    assert collect_losses(HISTORY) == {
        "train": [(1, 3.0), (2, 2.0)],
        "eval": [(2, 2.5)],
        "eval/shapes": [(2, 2.25)],
    }


def test_a_run_folder_gives_its_furthest_state(tmp_path):
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        state = {"global_step": step, "log_history": [{"step": step, "loss": 1.0}]}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    assert read_log_history(tmp_path) == [{"step": 10, "loss": 1.0}]
    assert read_log_history(tmp_path / "checkpoint-9" / "trainer_state.json") == [{"step": 9, "loss": 1.0}]


@pytest.mark.parametrize("content", ["{", "{}", '{"log_history": 3}', "[]"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "trainer_state.json").write_text(content)
    with pytest.raises(DataError, match="not a trainer_state"):
        read_log_history(tmp_path)
    with pytest.raises(DataError, match="holds no trainer_state"):
        read_log_history(tmp_path.parent)


def test_picture_and_data(tmp_path):
    path = plot_loss_curves({"mocle": HISTORY, "lora": HISTORY[:2]}, tmp_path / "loss.png")
    with Image.open(path) as picture:
        wide = picture.width
    with open(tmp_path / "loss.csv", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("mocle", "train", "1", "3"),
        ("mocle", "train", "2", "2"),
        ("mocle", "eval", "2", "2.5"),
        ("mocle", "eval/shapes", "2", "2.25"),
        ("lora", "train", "1", "3"),
        ("lora", "train", "2", "2"),
    ]
    plot_loss_curves({"lora": HISTORY[:2]}, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.width < wide
    plot_loss_curves({"empty": []}, tmp_path / "none.png")


def test_smoothing_starts_without_bias():
    assert _exponential_mean([4.0, 4.0, 4.0], 0.9) == pytest.approx([4.0, 4.0, 4.0])
    assert _exponential_mean([4.0, 2.0], 0.5) == pytest.approx([4.0, (0.25 * 4 + 0.5 * 2) / 0.75])
