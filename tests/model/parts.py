"""Tiny random parts: a tokenizer, language models and vision towers that save and load in milliseconds."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava_mocle.model import GridVisionConfig, GridVisionModel

HIDDEN = 32
IMAGE_SIZE = 28
PATCH = 14
VISION = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH,
}


def make_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE with Llama's special tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet)
    core.train_from_iterator(["USER: what is shown ? ASSISTANT: a circle"] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=512
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def save_language_model(
    folder: Path, *, tie: bool = False, chat_template: str | None = None, hidden: int = HIDDEN
) -> Path:
    tokenizer = make_tokenizer(chat_template)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        tie_word_embeddings=tie,
        initializer_range=0.2,
    )
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_clip(folder: Path, *, full: bool = False) -> Path:
    torch.manual_seed(2)
    if full:
        text = {k: v for k, v in VISION.items() if k not in ("image_size", "patch_size")}
        ids = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        CLIPModel(CLIPConfig(vision_config=VISION, text_config=text | ids)).save_pretrained(folder)
    else:
        CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    torch.manual_seed(3)
    SiglipVisionModel(SiglipVisionConfig(**VISION)).save_pretrained(folder)
    return folder


def make_grid(image_size: int = 64, grid_size: int = 2, **fields) -> GridVisionModel:
    """A grid tower whose random weights keep the scale of the activations, so that features differ visibly."""
    torch.manual_seed(4)
    model = GridVisionModel(GridVisionConfig(image_size=image_size, grid_size=grid_size, **fields))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.normal_(std=(2.0 / module.weight[0].numel()) ** 0.5)
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model.requires_grad_(False).eval()


# The names of a tiny LLaVA-1.5 in the original code's layout, written out by hand.
_LAYER = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    "input_layernorm",
    "post_attention_layernorm",
)
_CLIP_LAYER = (
    *(f"self_attn.{name}_proj" for name in ("k", "v", "q", "out")),
    "layer_norm1",
    "layer_norm2",
    "mlp.fc1",
    "mlp.fc2",
)
_TOWER = "model.vision_tower.vision_tower.vision_model."
ORIGINAL_NAMES = {
    "lm_head.weight",
    "model.embed_tokens.weight",
    "model.norm.weight",
    *(f"model.layers.{i}.{name}.weight" for i in range(2) for name in _LAYER),
    *(f"model.mm_projector.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")),
    f"{_TOWER}embeddings.class_embedding",
    f"{_TOWER}embeddings.patch_embedding.weight",
    f"{_TOWER}embeddings.position_embedding.weight",
    *(f"{_TOWER}{name}.{kind}" for name in ("pre_layrnorm", "post_layernorm") for kind in ("weight", "bias")),
    *(
        f"{_TOWER}encoder.layers.{i}.{name}.{kind}"
        for i in range(2)
        for name in _CLIP_LAYER
        for kind in ("weight", "bias")
    ),
}
