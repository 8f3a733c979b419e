"""A tiny random InstructBLIP, and an adapter for it as in the paper: the language model's q_proj and v_proj."""

from __future__ import annotations

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
)

from .helpers import IMAGE_TOKEN, config, text_config, token_ids

QUERIES = 4
PARAMETERS = ["query_tokens"]
MODULES = ["qformer", "language_projection", "post_layernorm"]
TARGETS = r".*language_model.*\.(q_proj|v_proj)"


def tiny_instructblip(seed: int = 0) -> InstructBlipForConditionalGeneration:
    torch.manual_seed(seed)
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(image_size=16, patch_size=8, **small),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=50, cross_attention_frequency=1, hidden_dropout_prob=0, attention_probs_dropout_prob=0, **small
        ),
        text_config=text_config(),
        num_query_tokens=QUERIES,
        image_token_index=IMAGE_TOKEN,
        initializer_range=0.3,
    )
    model = InstructBlipForConditionalGeneration(settings).eval()
    torch.nn.init.normal_(model.query_tokens)  # transformers leaves them at zero
    return model


def tiny_peft_instructblip(seed: int = 0, **changes) -> PeftModel:
    model = tiny_instructblip(seed)
    torch.manual_seed(seed + 1)
    settings = {"target_modules": TARGETS, "modules_to_save": MODULES, "parameters_to_save": PARAMETERS, **changes}
    return get_peft_model(model, config(**settings)).eval()


def trained(model: PeftModel, seed: int = 2) -> PeftModel:
    """Every trainable value moved, as by a training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs(batch: int = 3, length: int = 5, seed: int = 4) -> dict[str, Tensor]:
    """A batch of `batch` images with a question each, of `length` tokens."""
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.cat((torch.full((batch, QUERIES), IMAGE_TOKEN), token_ids(batch, length, seed)), dim=1)
    return {
        "pixel_values": torch.randn(batch, 3, 16, 16, generator=generator),
        "qformer_input_ids": torch.randint(2, 50, (batch, 3), generator=generator),
        "input_ids": prompt,
        "attention_mask": torch.ones_like(prompt),
    }


def rows(batch: dict[str, Tensor], which: slice) -> dict[str, Tensor]:
    return {name: tensor[which] for name, tensor in batch.items()}
