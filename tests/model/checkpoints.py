"""Writing tiny checkpoints and reading logits, for the tests of loading."""

import torch
import yaml
from peft import LoraConfig, get_peft_model

from llava_mocle.model import load_model

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
