"""Folders of the original LLaVA-1.5 code (`config.json` with `mm_vision_tower`): loading, and weight names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import AutoConfig, LlavaForConditionalGeneration

from llava_mocle.errors import CheckpointError
from llava_mocle.families.llava import LlavaFamily
from llava_mocle.io.jsonl import read_json
from llava_mocle.model.build import fit_embeddings, llava_config, load_vision_tower, plain_generation_config
from llava_mocle.model.folders import find_folder, weight_files
from llava_mocle.model.processing import image_processor_for, load_tokenizer, prepare_tokenizer
from llava_mocle.model.weights import load_whole, read_weights

T = TypeVar("T")

# (prefix in the original code, prefix in transformers); the first that fits wins, either way round.
_PREFIXES = (
    ("lm_head.", "lm_head."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.layers.", "model.language_model.layers."),
    ("model.norm.", "model.language_model.norm."),
)

# Old checkpoints also store these buffers, which hold no learnt value: every model computes them anew.
DERIVED_SUFFIXES = LlavaFamily.derived_weights

# The original model types -> the language model inside, whose weights carry Llama's names.
_LANGUAGE_MODELS = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral"}
_SELECT = {"patch": "default", "cls_patch": "full"}


def load_original(
    folder: Path, vision_tower: str | Path | None, dtype: Any, attention: Any, quantize: Any
) -> tuple[LlavaForConditionalGeneration, Any, Any]:
    """Model, tokenizer and image processor of an original LLaVA-1.5 folder.

    Args:
        folder: config.json, weights (.safetensors, or .bin read with `weights_only=True`), tokenizer.
        vision_tower: the CLIP folder, in place of the config's `mm_vision_tower`.
        dtype: torch dtype, or "auto" for the config's.
        attention: torch dtype -> the attention kernel to load with.
        quantize: model class, configuration, torch dtype -> the keywords of `from_pretrained` that quantize.

    Raises:
        CheckpointError: another projector or layout than LLaVA-1.5's, or weights missing, unknown or unreadable.
    """
    settings = read_json(folder / "config.json")
    refuse_other_designs(folder, settings)
    tower_folder = original_tower(folder, vision_tower)
    tokenizer = load_tokenizer(folder)
    image_token_id = prepare_tokenizer(tokenizer)
    tower = load_vision_tower(tower_folder)
    image_processor = image_processor_for(tower_folder, tower.config)
    config: Any = llava_config(
        text_config_of(settings),
        tower.config,
        image_token_id,
        settings.get("mm_vision_select_layer", -2),
        _SELECT[settings.get("mm_vision_select_feature", "patch")],
    )
    weights = _weights(folder, tower)
    if dtype == "auto":
        dtype = config.text_config.dtype or torch.float32
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    model = load_whole(
        LlavaForConditionalGeneration,
        folder,
        refuse_unexpected=True,
        config=config,
        state_dict=weights,
        dtype=dtype,
        attn_implementation=attention(dtype),
        **quantize(LlavaForConditionalGeneration, config, dtype),
    )
    fit_embeddings(model, tokenizer)
    model.generation_config = plain_generation_config(model, tokenizer)
    # PEFT writes it into adapters as their base; loading by `state_dict` leaves it empty.
    model.name_or_path = str(folder)
    model.config._name_or_path = str(folder)
    return model, tokenizer, image_processor


def original_tower(folder: Path, vision_tower: str | Path | None = None) -> Path:
    """The CLIP folder of an original LLaVA folder: `vision_tower`, or what its config.json names.

    Raises:
        CheckpointError: there is no such folder.
    """
    return find_folder(
        vision_tower or read_json(folder / "config.json")["mm_vision_tower"],
        f"the vision tower that {folder}/config.json names as mm_vision_tower",
        "Pass its place as vision_tower=...",
        beside=folder,
    )


def text_config_of(settings: dict[str, Any]) -> Any:
    """The configuration of the language model inside an original folder, from the folder's config.json.

    Raises:
        CheckpointError: a language model that LLaVA-1.5 does not have.
    """
    kind = settings.get("model_type")
    if kind not in _LANGUAGE_MODELS:
        raise CheckpointError(f"config.json: model_type is {kind!r}; LLaVA-1.5 has {', '.join(_LANGUAGE_MODELS)}.")
    text = {k: v for k, v in settings.items() if not k.startswith("mm_") and k not in ("model_type", "architectures")}
    return AutoConfig.for_model(_LANGUAGE_MODELS[kind], **text)


def _weights(folder: Path, tower: nn.Module) -> dict[str, torch.Tensor]:
    """The folder's weights under transformers' names, with those of the tower where the folder has none."""
    files = weight_files(folder)
    if not files:
        raise CheckpointError(f"{folder}: has no weights; expected *.safetensors or pytorch_model*.bin.")
    original = {name: value for file in files for name, value in read_weights(file).items()}
    weights = to_hf({name: value for name, value in original.items() if not name.endswith(DERIVED_SUFFIXES)})
    if not any(name.startswith("model.vision_tower.") for name in weights):
        # LLaVA-1.5 never trains the tower and often leaves it out of its checkpoints.
        weights |= {f"model.vision_tower.{name}": value for name, value in tower.state_dict().items()}
    return weights


def refuse_other_designs(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse the config.json of an original folder that is not of LLaVA-1.5's design.

    Raises:
        CheckpointError: names the field, its value and LLaVA-1.5's.
    """
    expected: dict[str, tuple[Any, ...]] = {
        "model_type": tuple(_LANGUAGE_MODELS),
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_use_im_start_end": (False, None),
        "mm_vision_select_feature": (*_SELECT, None),
        "mm_patch_merge_type": ("flat", None),
    }
    for field, values in expected.items():
        if settings.get(field) not in values:
            raise CheckpointError(
                f"{folder}/config.json: {field} is {settings.get(field)!r}; LLaVA-1.5 has {values[0]!r}, and only its "
                "layout can be loaded."
            )


def to_hf(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Original LLaVA-1.5 names -> transformers' names.

    Raises:
        CheckpointError: a name that the original code does not use.
    """
    return _rename(state_dict, _PREFIXES, "original LLaVA-1.5")


def from_hf(state_dict: Mapping[str, T]) -> dict[str, T]:
    """transformers' names -> original LLaVA-1.5 names, the exact inverse of `to_hf`.

    Raises:
        CheckpointError: a name that `LlavaForConditionalGeneration` does not use.
    """
    return _rename(state_dict, tuple((hf, original) for original, hf in _PREFIXES), "transformers LLaVA")


def _rename(state_dict: Mapping[str, T], prefixes: tuple[tuple[str, str], ...], layout: str) -> dict[str, T]:
    renamed: dict[str, T] = {}
    for name, value in state_dict.items():
        old, new = next((pair for pair in prefixes if name.startswith(pair[0])), ("", ""))
        if not old:
            raise CheckpointError(
                f"weight {name!r} does not belong to the {layout} layout. Expected names that start with "
                f"{', '.join(old for old, _ in prefixes)}."
            )
        renamed[new + name.removeprefix(old)] = value
    return renamed
