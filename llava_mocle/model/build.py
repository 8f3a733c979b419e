"""A LLaVA base folder from a language model, a vision tower and a newly initialised projector."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.utils import logging as transformers_logging

from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.families.image_tokens import image_tokens_per_image, leading_tokens
from llava_mocle.io.folders import new_folder
from llava_mocle.model.folders import TEMPLATE_FILE, find_folder
from llava_mocle.model.placement import parse_dtype
from llava_mocle.model.processing import (
    choose_template,
    image_processor_for,
    load_tokenizer,
    max_length,
    prepare_tokenizer,
)
from llava_mocle.model.weights import load_whole

# An embedding has a multiple of this many rows, as tensor cores need it.
_VOCABULARY_MULTIPLE = 64


def build_llava(
    language_model: str | Path,
    vision_tower: str | Path,
    out_dir: str | Path,
    *,
    template: str | None = None,
    image_size: int | None = None,
    vision_feature_layer: int | None = None,
    vision_feature_select_strategy: str | None = None,
    dtype: str | torch.dtype = "auto",
    seed: int = 0,
) -> Path:
    """Join the parts and write a folder in the LLaVA-HF layout; an existing folder is never overwritten.

    Args:
        language_model: folder of a causal language model with its tokenizer.
        vision_tower: folder of a CLIP, SigLIP or grid tower, alone or inside its full image-text model.
        out_dir: the folder to create.
        template: name of the prompt template (written to `llava_mocle.json`); default: found in the tokenizer.
        image_size: pixels; only checked against what the tower takes.
        vision_feature_layer: default -2 (LLaVA's), -1 for a grid tower.
        vision_feature_select_strategy: "default" drops the class token; default: "default" for CLIP, else "full".
        dtype: of all weights; "auto": the language model's.
        seed: of the projector's initial weights.

    Raises:
        ConfigError, CheckpointError: the parts do not fit; nothing is written then.
    """
    language_folder = find_folder(language_model, "the folder of a language model")
    vision_folder = find_folder(vision_tower, "the folder of a vision tower")
    with new_folder(out_dir) as folder:
        tokenizer = load_tokenizer(language_folder)
        tower = load_vision_tower(vision_folder)
        image_processor = image_processor_for(vision_folder, tower.config)
        if image_size not in (None, tower.config.image_size):
            raise ConfigError(f"image_size is {image_size}, but {vision_folder} takes {tower.config.image_size} px")
        # Published language models may come as .bin files: `weights_only` keeps code in them from running.
        model = load_whole(AutoModelForCausalLM, language_folder, dtype=parse_dtype(dtype), weights_only=True)
        template = template or choose_template(language_folder, tokenizer, model.config)
        image_token_id = prepare_tokenizer(tokenizer)
        fit_embeddings(model, tokenizer)
        tokenizer.model_max_length = max_length(tokenizer, model.config)
        config = llava_config(
            model.config, tower.config, image_token_id, vision_feature_layer, vision_feature_select_strategy
        )
        llava = join(model, tower, config, seed=seed)
        llava.generation_config = plain_generation_config(model, tokenizer)
        llava.save_pretrained(folder)
        write_processor(folder, tokenizer, image_processor, config)
        (folder / TEMPLATE_FILE).write_text(json.dumps({"template": template}) + "\n", encoding="utf-8")
    return Path(out_dir)


def load_vision_tower(folder: Path) -> PreTrainedModel:
    """A vision tower by itself, also out of a full CLIP or SigLIP folder, whose text half is left out.

    Raises:
        CheckpointError: no tower there, or a weight of it is missing.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
        config = getattr(config, "vision_config", config)
        model_class: Any = AutoModel._model_mapping[type(config)]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: is not a vision tower that transformers knows ({error}).") from error
    if model_class.main_input_name != "pixel_values" or not hasattr(config, "image_size"):
        raise CheckpointError(
            f"{folder}/config.json: {config.model_type} is not a vision tower; expected CLIP or SigLIP."
        )
    verbosity = transformers_logging.get_verbosity()
    # A full CLIP folder's text weights are left out on purpose; the report on them would read like an error.
    transformers_logging.set_verbosity_error()
    try:
        return load_whole(model_class, folder, config=config, weights_only=True)
    finally:
        transformers_logging.set_verbosity(verbosity)


def llava_config(
    text_config: Any, vision_config: Any, image_token_id: int, layer: int | None = None, strategy: str | None = None
) -> LlavaConfig:
    """The joint configuration, with LLaVA-1.5's choices where none are given.

    Raises:
        ConfigError: a layer or strategy that the vision tower does not have.
    """
    if strategy not in (None, "default", "full"):
        raise ConfigError(f"vision_feature_select_strategy is {strategy!r}; use 'default' or 'full'")
    is_grid = vision_config.model_type == "llava_mocle_grid"
    config: Any = LlavaConfig(
        text_config=text_config,
        vision_config=vision_config,
        image_token_index=image_token_id,
        projector_hidden_act="gelu",
        vision_feature_layer=layer if layer is not None else (-1 if is_grid else -2),
        vision_feature_select_strategy=strategy or ("default" if leading_tokens(vision_config) else "full"),  # type: ignore[arg-type]
        tie_word_embeddings=text_config.tie_word_embeddings,
    )
    states = 1 if is_grid else vision_config.num_hidden_layers + 1
    if not -states <= config.vision_feature_layer < states:
        raise ConfigError(
            f"vision_feature_layer is {config.vision_feature_layer}, but the {vision_config.model_type} has {states} "
            f"hidden states; choose {-states} to {states - 1}."
        )
    config.image_seq_length = image_tokens_per_image(config)
    return config


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


def write_processor(folder: Path, tokenizer: Any, image_processor: Any, config: Any) -> None:
    """Write the processor of a LLaVA folder, with the tokenizer's chat template.

    Args:
        config: the `LlavaConfig`.
    """
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=leading_tokens(config.vision_config),
        chat_template=tokenizer.chat_template,
    )
    processor.save_pretrained(folder)
    # Also in preprocessor_config.json, as in LLaVA-HF folders: `AutoImageProcessor` looks there first.
    image_processor.save_pretrained(folder)
