"""Putting a `LlavaForConditionalGeneration` together from loaded parts, without a second copy of any weight."""

from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from llava_mocle.errors import ConfigError

# Rows of an embedding beyond this multiple would cost tensor cores their alignment.
_VOCABULARY_MULTIPLE = 64


def join(
    language_model: PreTrainedModel, vision_tower: nn.Module, config: LlavaConfig, *, seed: int
) -> LlavaForConditionalGeneration:
    """Language model + vision tower + a newly initialised two-layer GELU projector (LLaVA-1.5's).

    The parts become the new model's own modules. The projector is initialised like `nn.Linear` from `seed` alone and
    takes the language model's dtype; so does the vision tower.

    Raises:
        ConfigError: the language model is of a kind that does not fit.
    """
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    body, head = language_model.base_model, language_model.get_output_embeddings()
    if type(body) is not type(model.model.language_model) or head is None:
        raise ConfigError(
            f"{type(language_model).__name__} cannot be a LLaVA language model: its body is a {type(body).__name__}, "
            f"expected {type(model.model.language_model).__name__}, and it must have an lm_head."
        )
    dtype = language_model.dtype
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = LlavaMultiModalProjector(config)
    model.model.language_model = body
    model.model.vision_tower = vision_tower.to(dtype)
    model.model.multi_modal_projector = projector.to(dtype)
    model.lm_head = head
    model.tie_weights()
    config.dtype = dtype
    return model


def fit_embeddings(model: Any, tokenizer: Any) -> None:
    """Grow the embeddings to hold every token of the tokenizer; new rows are the mean of the old ones.

    A mean row scores below the best token under any hidden state, so an untrained token is never the greedy choice.
    Nothing changes where the vocabulary is large enough already.
    """
    old_size = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) <= old_size:
        return
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=_VOCABULARY_MULTIPLE, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            weight = layer.weight
            weight[old_size:] = weight[:old_size].mean(dim=0, dtype=torch.float32).to(weight.dtype)


def plain_generation_config(language_model: PreTrainedModel, tokenizer: Any) -> GenerationConfig:
    """Greedy decoding that ends where the language model ends; its sampling settings do not carry over."""
    own = language_model.generation_config
    eos = own.eos_token_id if own is not None and own.eos_token_id is not None else tokenizer.eos_token_id
    return GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=eos, pad_token_id=tokenizer.pad_token_id)
