"""Writing tiny checkpoints and reading logits, for the tests of loading."""

import json

import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration

from llava_mocle.model import load_model
from llava_mocle.model.original import from_hf
from tests.model import parts

TARGETS = r".*language_model\..*\.(up_proj|down_proj)"
INSTRUCTIONS = ["what is it", "where is it", "how long is AB", "how wide is it", "which organ", "which plane"]


def inputs(token, batch=3):
    row = [5, *[token] * 4, 6, 7, 8]
    pixels = torch.randn(batch, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    return {"input_ids": torch.tensor([row] * batch), "pixel_values": pixels}


def randomise(model, match, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if match(name):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def logits_of(model, token, **routing):
    return model(**inputs(token), **routing).logits


def write_extras(folder, loaded, **recipe):
    """What a trainer leaves beside the weights."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    loaded.tokenizer.save_pretrained(folder)
    loaded.image_processor.save_pretrained(folder)


def lora_folder(folder, base_folder, **fields):
    loaded = load_model(base_folder)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=TARGETS, r=4, **fields)
    model = get_peft_model(loaded.model, config).eval()
    randomise(model, lambda name: "lora_B" in name)
    model.save_pretrained(folder)
    return logits_of(model, loaded.image_token_id)


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
