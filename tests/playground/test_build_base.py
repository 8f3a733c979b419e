import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from llava_mocle.errors import AssetError
from playground import build_base
from playground.paths import BASE, assets_dir

ASSETS = assets_dir()
needs_model = pytest.mark.skipif(
    not (BASE / "model.safetensors").is_file(), reason="playground/base isn't built (python -m playground.prepare)"
)


def test_missing_parts_name_the_remedy(tmp_path):
    with pytest.raises(AssetError, match=r"gguf: not found.*--only language"):
        build_base.convert_language_model(tmp_path / "x.gguf", tmp_path / "out")
    with pytest.raises(AssetError, match=r"pth: not found.*--only vision"):
        build_base.convert_vision_tower(tmp_path / "x.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_gguf(tmp_path):
    pytest.importorskip("gguf", reason="the 'demo' extra is not installed")
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(AssetError, match="cannot be read as a GGUF model"):
        build_base.convert_language_model(tmp_path / "x.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parts_can_be_read_by_others(tmp_path):
    class Part:
        def save_pretrained(self, folder):
            folder.mkdir()
            save_file({"a": np.zeros(1)}, folder / "model.safetensors")

    before = os.umask(0o022)
    try:
        build_base._write_folder(tmp_path / "part", Part())
    finally:
        os.umask(before)
    assert (tmp_path / "part" / "model.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.slow
@needs_model
def test_base_folder_trains_and_saves():
    """The traces of GGUF are gone, the template is the chat template, and an image is 16 tokens."""
    config = json.loads((BASE / "config.json").read_text())
    assert config["model_type"] == "llava"
    assert "quantization_config" not in config
    assert "quantization_config" not in config["text_config"]
    assert config["image_seq_length"] == 16
    assert config["vision_config"]["model_type"] == "llava_mocle_grid"
    assert json.loads((BASE / "llava_mocle.json").read_text()) == {"template": "chat"}
    processor = json.loads((BASE / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == processor["image_std"] == [0.5, 0.5, 0.5]


@pytest.mark.slow
@pytest.mark.skipif(
    not (ASSETS / "smollm2" / "model.safetensors").is_file(), reason="SmolLM2 isn't converted (playground.prepare)"
)
def test_converted_language_model_answers():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "smollm2")
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "smollm2")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert tokenizer.decode(inputs["input_ids"][0]) == (
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(output) == "The capital of France is Paris.<|im_end|>"
