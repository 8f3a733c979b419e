import json

import pytest

from llava_mocle.errors import CheckpointError
from llava_mocle.model.folders import detect_kind, find_folder, is_original


def test_hub_names_are_looked_for_in_the_local_cache_only():
    with pytest.raises(CheckpointError, match="hf download lmsys/none-such"):
        find_folder("lmsys/none-such", "a language model")
    with pytest.raises(
        CheckpointError, match=r"none-such: no such folder \(looked for at /.*none-such\); expected a language model\.$"
    ):
        find_folder("none-such", "a language model")  # a folder, misspelt


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
