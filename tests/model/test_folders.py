import json

import pytest
import torch
from safetensors.torch import save_file

from llava_mocle.errors import CheckpointError
from llava_mocle.model.folders import detect_kind, find_folder, is_original, new_folder


def test_a_new_folder_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "deep" / "x"
    with new_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert [p.name for p in target.iterdir()] == ["a"]
    assert [p.name for p in target.parent.iterdir()] == ["x"]


def test_a_new_folder_can_be_read_by_others(tmp_path, usual_umask):
    with new_folder(tmp_path / "x") as folder:
        save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    assert (tmp_path / "x" / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_an_interrupted_folder_leaves_nothing(tmp_path):
    def interrupted():
        with new_folder(tmp_path / "x") as folder:
            (folder / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_only_an_empty_folder_may_stand_in_the_way(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "a").write_text("1")
    with pytest.raises(CheckpointError, match="never overwritten"), new_folder(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty" / "a").read_text() == "1"


def test_hub_names_are_looked_for_in_the_local_cache_only():
    with pytest.raises(CheckpointError, match="hf download lmsys/none-such"):
        find_folder("lmsys/none-such", "a language model")


@pytest.mark.parametrize(
    ("offline", "reachable", "expected"),
    [(True, True, [True]), (False, True, [False]), (False, False, [False, True])],
)
def test_a_hub_name_is_completed_first_and_taken_from_the_cache_if_that_fails(
    tmp_path, monkeypatch, offline, reachable, expected
):
    asked = []

    def snapshot(name, local_files_only=False):
        asked.append(local_files_only)
        if not local_files_only and not reachable:
            raise ConnectionError("no network")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    assert find_folder("lmsys/vicuna", "a language model") == tmp_path
    assert asked == expected


@pytest.mark.parametrize("weights", ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin", "model.safetensors"])
def test_a_projector_beside_the_whole_models_weights_is_no_stage_1(tmp_path, weights):
    """The published llava-v1.5 folders have mm_projector.bin beside their shards."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "mm_vision_tower": "x"}))
    (tmp_path / "mm_projector.bin").touch()
    assert is_original(tmp_path)
    with pytest.raises(CheckpointError, match="stage-1 folder of the original"):
        detect_kind(tmp_path)
    (tmp_path / weights).touch()
    assert detect_kind(tmp_path) == "legacy"


def test_only_the_original_codes_folders_are_original(tmp_path):
    assert not is_original(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert not is_original(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llava", "mm_vision_tower": "x"}')
    assert is_original(tmp_path)
    (tmp_path / "adapter_config.json").touch()
    assert not is_original(tmp_path)
