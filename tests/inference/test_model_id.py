from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava_mocle.inference.model_id import model_id


@pytest.fixture
def folder(tmp_path) -> Path:
    base = tmp_path / "base"
    base.mkdir()
    save_file({"weight": torch.zeros(10)}, base / "model.safetensors")
    path = tmp_path / "run"
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")
    save_file({"lora": torch.zeros(3_000_000)}, path / "adapter_model.safetensors")
    return path


def test_the_name_is_the_folders(folder):
    assert model_id(folder, folder.parent / "base").startswith("run@")
    assert len(model_id(folder, folder.parent / "base")) == len("run@") + 8
    checkpoint = folder / "checkpoint-40"
    checkpoint.mkdir()
    assert model_id(checkpoint, checkpoint).startswith("run_checkpoint-40@")


def test_new_weights_in_the_same_place_are_another_model(folder):
    before = model_id(folder, folder.parent / "base")
    assert model_id(folder, folder.parent / "base") == before
    # 12 MB is sampled, not read whole: a step of training changes all of it, so every sample.
    save_file({"lora": torch.full((3_000_000,), 1e-6)}, folder / "adapter_model.safetensors")
    assert model_id(folder, folder.parent / "base") != before


@pytest.mark.parametrize("changed", ["base weights", "clusters", "base given", ".bin weights", "processor"])
def test_everything_an_answer_depends_on_counts(folder, tmp_path, changed):
    before = model_id(folder, folder.parent / "base")
    given = tmp_path / "base"
    if changed == "base weights":
        save_file({"weight": torch.ones(10)}, tmp_path / "base" / "model.safetensors")
    elif changed == "clusters":
        (folder / "clusters").mkdir()
        save_file({"centroids": torch.ones(2, 3)}, folder / "clusters" / "centroids.safetensors")
    elif changed == ".bin weights":
        torch.save({"weight": torch.ones(10)}, tmp_path / "base" / "pytorch_model-00001-of-00001.bin")
    elif changed == "processor":
        (folder / "processor_config.json").write_text('{"patch_size": 14}')
    else:
        given = tmp_path / "moved"
        given.mkdir()
        save_file({"weight": torch.ones(10)}, given / "model.safetensors")
    assert model_id(folder, given) != before


def test_logs_beside_the_weights_do_not_count(folder):
    before = model_id(folder, folder.parent / "base")
    (folder / "trainer_state.json").write_text("{}")
    (folder / "README.md").write_text("hello")
    assert model_id(folder, folder.parent / "base") == before
