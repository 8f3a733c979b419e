"""The probe on a tiny run and at the start of a recipe: gradients against a plain loop over the same batches."""

import numpy as np
import pytest
import torch
import yaml

from llava_mocle.analysis.training_point import load_point
from llava_mocle.analysis.transfer.probe import draw_batches, probe
from llava_mocle.cli.main import main
from llava_mocle.errors import ConfigError, DataError
from llava_mocle.model.load import load_model


def test_a_run_is_measured_where_it_stands(mocle_run):
    """The universal expert's gradient, from the run loaded as `generate` loads it. Float32 in another order: 1e-4."""
    point = load_point(mocle_run)
    assert point.names == ["pictures", "sums"]
    assert point.where == str(mocle_run)
    found = probe(point, 4)
    assert found.dataset_of.tolist() == [0] * 4 + [1] * 4
    assert found.batch_size == 4
    loaded = load_model(mocle_run, trainable=True)
    loaded.model.eval()
    name = next(name for name, _ in loaded.model.named_parameters() if name.endswith("experts_B"))
    own = []
    for _, samples in draw_batches(point, 4, 4, 0):
        batch = point.rows.encoder.collator()([point.rows[sample] for sample in samples])
        loaded.model.zero_grad()
        loaded.model(**batch).loss.backward()
        grads = {key: value.grad for key, value in loaded.model.named_parameters() if value.grad is not None}
        own.append(torch.cat([value[-1].flatten() for key, value in grads.items() if "experts_B" in key]).double())
    assert name in grads
    expected = (torch.stack(own) @ torch.stack(own).T).numpy()
    assert found.products["LoRA B"] == pytest.approx(expected, rel=1e-4, abs=1e-4 * expected.max())


def test_rows_are_drawn_once_each(mocle_run):
    point = load_point(mocle_run)
    drawn = draw_batches(point, 100, 4, 0)
    counts = np.bincount([dataset for dataset, _ in drawn])
    assert counts.tolist() == [6, 6]  # 25 and 24 rows; `repeat: 2` of sums does not count
    samples = [sample for _, batch in drawn for sample in batch]
    assert len(samples) == len(set(samples))
    assert drawn == draw_batches(point, 100, 4, 0)
    assert drawn != draw_batches(point, 100, 4, 1)
    with pytest.raises(DataError, match="dataset 'pictures' has 25 rows, and 4 batches of 8 are needed at least"):
        draw_batches(point, 4, 8, 0)
    with pytest.raises(ConfigError, match="--batches is 3, expected at least 4"):
        probe(point, 3)


def test_the_start_of_a_recipe(mocle_recipe, tmp_path, capsys):
    """A fresh LoRA: A has no gradient, and the caption says so."""
    words = ["analyze", "transfer", mocle_recipe, "--batches", "4", "--output", tmp_path, "--adapter", "lora"]
    assert main([*map(str, words), "--cluster_model", "none"]) == 0
    shown = capsys.readouterr().out
    assert "pictures and sums" in shown
    caption = (tmp_path / "transfer.txt").read_text()
    assert f"at the start of {mocle_recipe}" in caption
    assert "LoRA A: no gradient at all" in caption
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"transfer.{kind}" for kind in ("csv", "png", "svg", "txt")
    ]


def test_one_dataset_is_refused(mocle_recipe, tmp_path, capsys):
    keys = yaml.safe_load(mocle_recipe.read_text())
    keys |= {"datasets": keys["datasets"][:1]}
    recipe = tmp_path / "one.yaml"
    recipe.write_text(yaml.safe_dump(keys))
    assert main(["analyze", "transfer", str(recipe), "--output", str(tmp_path / "out")]) == 2
    assert "one dataset (pictures) has no other to be compared with" in capsys.readouterr().err


def test_a_folder_without_a_recipe_is_refused(tmp_path, capsys):
    assert main(["analyze", "transfer", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "holds no recipe.yaml" in capsys.readouterr().err
