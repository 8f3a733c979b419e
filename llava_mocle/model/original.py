"""Loading a folder of the original LLaVA-1.5 code (`config.json` with `mm_vision_tower`)."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, LlavaForConditionalGeneration

from llava_mocle.errors import CheckpointError
from llava_mocle.model.assemble import fit_embeddings, plain_generation_config
from llava_mocle.model.build import llava_config, load_vision_tower
from llava_mocle.model.folders import find_folder, read_json, weight_files
from llava_mocle.model.legacy import drop_derived, to_hf
from llava_mocle.model.loading import load_reported, refuse_gaps
from llava_mocle.model.processing import image_processor_for, load_tokenizer, prepare_tokenizer

# The original model types -> the language model inside, whose weights carry Llama's names.
_LANGUAGE_MODELS = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral"}
_SELECT = {"patch": "default", "cls_patch": "full"}


def load_original(
    folder: Path, vision_tower: str | Path | None, dtype: Any, attention: Any
) -> tuple[LlavaForConditionalGeneration, Any, Any]:
    """Model, tokenizer and image processor of an original LLaVA-1.5 folder.

    Args:
        folder: config.json, weights (.safetensors, or .bin read with `weights_only=True`), tokenizer.
        vision_tower: the CLIP folder, in place of the config's `mm_vision_tower`.
        dtype: torch dtype, or "auto" for the config's.
        attention: torch dtype -> the attention kernel to load with.

    Raises:
        CheckpointError: another projector or layout than LLaVA-1.5's, or weights missing, unknown or unreadable.
    """
    settings = read_json(folder / "config.json")
    _refuse_other_designs(folder, settings)
    tower_folder = find_folder(
        vision_tower or settings["mm_vision_tower"],
        f"the vision tower that {folder}/config.json names as mm_vision_tower",
        "Pass its place as vision_tower=...",
        beside=folder,
    )
    tokenizer = load_tokenizer(folder)
    image_token_id = prepare_tokenizer(tokenizer)
    tower = load_vision_tower(tower_folder)
    image_processor = image_processor_for(tower_folder, tower.config)
    text = {k: v for k, v in settings.items() if not k.startswith("mm_") and k not in ("model_type", "architectures")}
    config: Any = llava_config(
        AutoConfig.for_model(_LANGUAGE_MODELS[settings["model_type"]], **text),
        tower.config,
        image_token_id,
        settings.get("mm_vision_select_layer", -2),
        _SELECT[settings.get("mm_vision_select_feature", "patch")],
    )
    weights = to_hf(drop_derived(read_weights(folder)))
    if not any(name.startswith("model.vision_tower.") for name in weights):
        # LLaVA-1.5 never trains the tower and often leaves it out of its checkpoints.
        weights |= {f"model.vision_tower.{name}": value for name, value in tower.state_dict().items()}
    if dtype == "auto":
        dtype = config.text_config.dtype or torch.float32
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    try:
        model, report = load_reported(
            LlavaForConditionalGeneration,
            None,
            config=config,
            state_dict=weights,
            dtype=dtype,
            attn_implementation=attention(dtype),
        )
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: its weights do not fit its config.json ({error}).") from error
    refuse_gaps(folder, report, unexpected=True)
    fit_embeddings(model, tokenizer)
    model.generation_config = plain_generation_config(model, tokenizer)
    # PEFT writes it into adapters as their base; loading by `state_dict` leaves it empty.
    model.name_or_path = str(folder)
    model.config._name_or_path = str(folder)
    return model, tokenizer, image_processor


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a folder, from its .safetensors files or else its pytorch_model*.bin ones.

    Raises:
        CheckpointError: none there, or one that cannot be read.
    """
    from safetensors.torch import load_file

    files = weight_files(folder)
    if not files:
        raise CheckpointError(f"{folder}: has no weights; expected *.safetensors or pytorch_model*.bin.")
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                weights |= load_file(file)
            else:
                weights |= torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            raise CheckpointError(f"{file}: cannot be read as weights ({type(error).__name__}: {error}).") from error
    return weights


def _refuse_other_designs(folder: Path, settings: dict[str, Any]) -> None:
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
