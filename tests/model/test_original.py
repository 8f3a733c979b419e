import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from llava_mocle.errors import CheckpointError
from llava_mocle.model import load_model
from llava_mocle.model.legacy import from_hf
from tests.model import parts


def logits_of(model, image_token_id):
    ids = torch.tensor([[5, *[image_token_id] * 4, 6, 7]])
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=pixels).logits


def write_original(folder, base_folder, clip_tower, *, with_tower, suffix, dtype=torch.float32):
    """What the original code would have saved: Llama's vocabulary without `<image>`, its config fields, its names."""
    folder.mkdir()
    config = json.loads((base_folder / "config.json").read_text())
    vocabulary = config["image_token_index"]
    fields = {
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_vision_tower": str(clip_tower),
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_hidden_size": 24,
        "image_aspect_ratio": "pad",
        "rope_theta": 10000.0,
    }
    text = config["text_config"] | {"vocab_size": vocabulary}
    text.pop("rope_parameters")
    (folder / "config.json").write_text(json.dumps(text | fields))
    state = from_hf(LlavaForConditionalGeneration.from_pretrained(base_folder).state_dict())
    state = {k: v.to(dtype).contiguous() for k, v in state.items() if with_tower or "vision_tower" not in k}
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        state[name] = state[name][:vocabulary].clone()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    if suffix == ".bin":
        torch.save(state, folder / "pytorch_model-00001-of-00001.bin")
    else:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    parts.make_tokenizer().save_pretrained(folder)
    return folder


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
