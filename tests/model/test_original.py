import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from llava_mocle.errors import CheckpointError
from llava_mocle.model import load_model
from llava_mocle.model.original import from_hf, to_hf
from tests.model import parts
from tests.model.checkpoints import TARGETS, randomise, write_original


def logits_of(model, image_token_id):
    ids = torch.tensor([[5, *[image_token_id] * 4, 6, 7]])
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=pixels).logits


def test_names_both_ways(llava):
    state = llava.state_dict()
    original = from_hf(state)
    assert set(original) == parts.ORIGINAL_NAMES
    assert original["model.mm_projector.2.bias"] is state["model.multi_modal_projector.linear_2.bias"]
    back = to_hf(original)
    assert list(back) == list(state)
    assert all(back[name] is state[name] for name in state)
    assert from_hf(back).keys() == original.keys()


def test_unknown_names_are_an_error(llava):
    with pytest.raises(CheckpointError, match=r"model\.image_newline"):
        to_hf(from_hf(llava.state_dict()) | {"model.image_newline": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"embed_tokens"):
        from_hf({"model.embed_tokens.weight": torch.zeros(1)})


@pytest.mark.parametrize(("with_tower", "suffix"), [(True, ".bin"), (False, ".safetensors")])
def test_original_folder_gives_the_logits_of_the_hf_folder(
    tmp_path, base_folder, clip_tower, llava, with_tower, suffix
):
    folder = write_original(tmp_path / "original", base_folder, clip_tower, with_tower=with_tower, suffix=suffix)
    loaded = load_model(folder)
    assert loaded.kind == "legacy"
    assert loaded.template == "vicuna_v1"
    assert loaded.image_tokens_per_image == 4
    assert loaded.image_aspect_ratio == "pad"
    token = loaded.image_token_id
    assert torch.equal(logits_of(loaded.model, token), logits_of(llava, token))
    assert loaded.tokenizer.get_vocab()["<image>"] == token

    original = from_hf(loaded.model.state_dict())
    assert set(original) == parts.ORIGINAL_NAMES


def test_original_folder_of_another_design_is_refused(tmp_path, base_folder, clip_tower):
    folder = write_original(tmp_path / "x", base_folder, clip_tower, with_tower=True, suffix=".safetensors")
    config = json.loads((folder / "config.json").read_text())
    for field, value in {"mm_projector_type": "linear", "mm_use_im_start_end": True, "model_type": "llava_mpt"}.items():
        (folder / "config.json").write_text(json.dumps(config | {field: value}))
        with pytest.raises(CheckpointError, match=field):
            load_model(folder)
    (folder / "config.json").write_text(json.dumps(config | {"mm_vision_tower": "openai/none-such"}))
    with pytest.raises(CheckpointError, match="vision_tower="):
        load_model(folder)
    assert load_model(folder, vision_tower=clip_tower).kind == "legacy"


@pytest.mark.parametrize("drop", ["model.layers.1.mlp.up_proj.weight", "model.mm_projector.2.bias"])
def test_original_folder_with_a_missing_weight_is_refused(tmp_path, base_folder, clip_tower, drop):
    folder = write_original(tmp_path / "x", base_folder, clip_tower, with_tower=True, suffix=".safetensors")
    state = load_file(folder / "model.safetensors")
    state.pop(drop)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="missing"):
        load_model(folder)


def test_an_adapter_trained_on_an_original_folder_names_it(tmp_path, base_folder, clip_tower):
    folder = write_original(tmp_path / "original", base_folder, clip_tower, with_tower=False, suffix=".bin")
    loaded = load_model(folder)
    assert loaded.model.config.name_or_path == str(folder)
    model = get_peft_model(loaded.model, LoraConfig(task_type="CAUSAL_LM", target_modules=TARGETS, r=4)).eval()
    randomise(model, lambda name: "lora_B" in name)
    model.save_pretrained(tmp_path / "lora")
    expected = logits_of(model, loaded.image_token_id)
    named = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(folder)
    again = load_model(tmp_path / "lora")
    assert again.base_path == folder
    assert torch.equal(logits_of(again.model, again.image_token_id), expected)

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mm_vision_tower": "moved/away"}))
    given = load_model(tmp_path / "lora", vision_tower=clip_tower)
    assert torch.equal(logits_of(given.model, given.image_token_id), expected)
