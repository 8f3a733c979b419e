"""A LLaVA base folder from a language model, a vision tower and a newly initialised projector."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlavaConfig, LlavaProcessor, PreTrainedModel
from transformers.utils import logging as transformers_logging

from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.io.folders import new_folder
from llava_mocle.model.assemble import fit_embeddings, join, plain_generation_config
from llava_mocle.model.folders import TEMPLATE_FILE, find_folder
from llava_mocle.model.image_tokens import image_tokens_per_image, leading_tokens
from llava_mocle.model.loading import load_reported, refuse_gaps
from llava_mocle.model.placement import parse_dtype
from llava_mocle.model.processing import (
    choose_template,
    image_processor_for,
    load_tokenizer,
    max_length,
    prepare_tokenizer,
)


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
        model = _load_language_model(language_folder, parse_dtype(dtype))
        template = template or choose_template(language_folder, tokenizer, model.config)
        image_token_id = prepare_tokenizer(tokenizer)
        fit_embeddings(model, tokenizer)
        tokenizer.model_max_length = max_length(tokenizer, model.config, {})
        config = llava_config(
            model.config, tower.config, image_token_id, vision_feature_layer, vision_feature_select_strategy
        )
        llava = join(model, tower, config, seed=seed)
        llava.generation_config = plain_generation_config(model, tokenizer)
        llava.save_pretrained(folder)
        _write_processor(folder, tokenizer, image_processor, config)
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
        tower, report = load_reported(model_class, folder, config=config, weights_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: its weights cannot be loaded ({type(error).__name__}: {error}).") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    refuse_gaps(folder, report)
    return tower


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


def _load_language_model(folder: Path, dtype: Any) -> PreTrainedModel:
    try:
        # Published language models may come as .bin files, which this converts; they are never unpickled freely.
        model, report = load_reported(AutoModelForCausalLM, folder, dtype=dtype, weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder}: is not a language model that loads ({type(error).__name__}: {error})."
        ) from error
    refuse_gaps(folder, report)
    return model


def _write_processor(folder: Path, tokenizer: Any, image_processor: Any, config: Any) -> None:
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=leading_tokens(config.vision_config),
        chat_template=tokenizer.chat_template,
    )
    processor.save_pretrained(folder)
    # Also by itself, where LLaVA-HF folders have it and `AutoImageProcessor` looks first.
    image_processor.save_pretrained(folder)
