"""What is known of each kind of model that `ProcessorFamily` runs, as a table. `MODEL_KINDS` is that table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from transformers.image_utils import ChannelDimension
from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size

from llava_mocle.families import processors, usual_images
from llava_mocle.families.image_tokens import leading_tokens
from llava_mocle.families.parts import Parts

Sizes = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class ModelKind:
    """One kind of model.

    Attributes:
        name: what people read.
        model_class: in transformers.
        processor_class: what makes text and images its inputs.
        parts: what it is made of.
        placeholders: what the processor's `replace_image_token` reads, made of the (height, width) in pixels of one
            sample's images; None where only processed images tell.
        defaults: what the processor takes from the model's configuration where its own file does not say.
        image_processor: as published models have it, made of the model's configuration alone. For plans.
        token_types: the input that tells tokens of images from others; None: the model takes none.
        layer_connectors: a list of modules inside the tower that belong to the connector as well.
        chats: whether a chat template comes with it.
        takes_text_only: whether the model was made to read text without an image.
    """

    name: str
    model_class: str
    processor_class: Any
    parts: Parts
    placeholders: Callable[[Any, Sizes], dict[str, Any] | None]
    defaults: Callable[[Any], dict[str, Any]]
    image_processor: Callable[[Any], Any]
    token_types: str | None = None
    layer_connectors: str | None = None
    chats: bool = True
    takes_text_only: bool = True

    def parts_of(self, config: Any) -> Parts:
        """What a model of this configuration is made of."""
        if self.layer_connectors is None:
            return self.parts
        layers = range(len(config.vision_config.deepstack_visual_indexes))
        return replace(
            self.parts,
            connector=(*self.parts.connector, *(f"{self.layer_connectors}.{index}" for index in layers)),
        )


# ------ what `replace_image_token` reads


def _tiled(processor: Any, sizes: Sizes) -> dict[str, Any]:
    image_processor = processor.image_processor
    size = image_processor.crop_size if getattr(image_processor, "do_center_crop", False) else image_processor.size
    side = size["height"] or size["shortest_edge"], size["width"] or size["shortest_edge"]
    tile = torch.empty(1, 3, *side, device="meta")
    return {"image_sizes": [list(size) for size in sizes], "pixel_values": [tile], "batch_num_images": [len(sizes)]}


def _patched(processor: Any, sizes: Sizes) -> dict[str, Any]:
    counts = processor._get_num_multimodal_tokens(image_sizes=sizes).num_image_patches
    return {"image_grid_thw": torch.tensor([[1, 1, count] for count in counts]), "num_patches": counts}


def _gridded(processor: Any, sizes: Sizes) -> dict[str, Any]:
    found = [processor.image_processor.get_number_of_image_patches(*size) for size in sizes]
    return {"rows": [[rows for _, rows, _ in found]], "cols": [[cols for _, _, cols in found]]}


def _whole(processor: Any, sizes: Sizes) -> dict[str, Any] | None:
    # Crops beside the whole image depend on its size in ways that the processor does not tell.
    if getattr(processor.image_processor, "do_pan_and_scan", False):
        return None
    return {"num_crops": [0] * len(sizes)}


def _resized(processor: Any, sizes: Sizes) -> dict[str, Any]:
    longest = processor.image_processor.size["longest_edge"]
    # The function reads the shape of its image and nothing else.
    images = (torch.empty(3, *size, device="meta") for size in sizes)
    resized = [
        get_resize_output_image_size(image, (longest, longest), processor.side, ChannelDimension.FIRST)
        for image in images
    ]
    for size, (height, width) in zip(sizes, resized, strict=True):
        if not height or not width:
            raise ValueError(f"{size[1]} x {size[0]} pixels is too thin to be brought to {longest} pixels a side")
    return {"image_sizes": resized}


# ------ what a processor's file may leave out


def _next_defaults(config: Any) -> dict[str, Any]:
    return {
        "patch_size": config.vision_config.patch_size,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": leading_tokens(config.vision_config),
    }


def _onevision_defaults(config: Any) -> dict[str, Any]:
    vision = config.vision_config
    return {
        "num_image_tokens": (vision.image_size // vision.patch_size) ** 2,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "vision_aspect_ratio": config.vision_aspect_ratio,
    }


def _idefics_defaults(config: Any) -> dict[str, Any]:
    vision = config.vision_config
    return {"image_seq_len": (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2}


def _mistral_defaults(config: Any) -> dict[str, Any]:
    return {"patch_size": config.vision_config.patch_size, "spatial_merge_size": config.spatial_merge_size}


def _intern_defaults(config: Any) -> dict[str, Any]:
    return {"image_seq_length": config.image_seq_length}


def _gemma_defaults(config: Any) -> dict[str, Any]:
    return {"image_seq_length": config.mm_tokens_per_image}


def _none(config: Any) -> dict[str, Any]:
    return {}


# ------ the table

_PROJECTED = Parts("language_model", "vision_tower", ("multi_modal_projector",))
_TILED = replace(_PROJECTED, parameters=("image_newline",))
_MERGED = Parts("language_model", "visual", ("visual.merger",))
_CONNECTED = Parts("text_model", "vision_model", ("connector",))

# model type -> what is known of it
MODEL_KINDS = {
    "llava_next": ModelKind(
        "LLaVA-NeXT",
        "LlavaNextForConditionalGeneration",
        transformers.LlavaNextProcessor,
        _TILED,
        _tiled,
        _next_defaults,
        usual_images.next_tiles,
    ),
    "llava_onevision": ModelKind(
        "LLaVA-OneVision",
        "LlavaOnevisionForConditionalGeneration",
        processors.LlavaOnevisionProcessor,
        _TILED,
        _tiled,
        _onevision_defaults,
        usual_images.onevision_tiles,
    ),
    "qwen2_vl": ModelKind(
        "Qwen2-VL",
        "Qwen2VLForConditionalGeneration",
        processors.Qwen2VLProcessor,
        _MERGED,
        _patched,
        _none,
        usual_images.patches,
        token_types="mm_token_type_ids",
    ),
    "qwen2_5_vl": ModelKind(
        "Qwen2.5-VL",
        "Qwen2_5_VLForConditionalGeneration",
        processors.Qwen2_5_VLProcessor,
        _MERGED,
        _patched,
        _none,
        usual_images.patches,
        token_types="mm_token_type_ids",
    ),
    "qwen3_vl": ModelKind(
        "Qwen3-VL",
        "Qwen3VLForConditionalGeneration",
        processors.Qwen3VLProcessor,
        _MERGED,
        _patched,
        _none,
        usual_images.patches,
        token_types="mm_token_type_ids",
        layer_connectors="visual.deepstack_merger_list",
    ),
    "internvl": ModelKind(
        "InternVL",
        "InternVLForConditionalGeneration",
        processors.InternVLProcessor,
        _PROJECTED,
        _patched,
        _intern_defaults,
        usual_images.crops,
    ),
    "smolvlm": ModelKind(
        "SmolVLM",
        "SmolVLMForConditionalGeneration",
        processors.SmolVLMProcessor,
        _CONNECTED,
        _gridded,
        _idefics_defaults,
        usual_images.split,
    ),
    "idefics3": ModelKind(
        "Idefics3",
        "Idefics3ForConditionalGeneration",
        transformers.Idefics3Processor,
        _CONNECTED,
        _gridded,
        _idefics_defaults,
        usual_images.split,
    ),
    "gemma3": ModelKind(
        "Gemma 3",
        "Gemma3ForConditionalGeneration",
        transformers.Gemma3Processor,
        _PROJECTED,
        _whole,
        _gemma_defaults,
        usual_images.square,
        token_types="token_type_ids",
    ),
    "paligemma": ModelKind(
        "PaliGemma",
        "PaliGemmaForConditionalGeneration",
        transformers.PaliGemmaProcessor,
        _PROJECTED,
        _whole,
        _none,
        usual_images.square,
        token_types="token_type_ids",
        chats=False,
        takes_text_only=False,
    ),
    "mistral3": ModelKind(
        "Mistral 3",
        "Mistral3ForConditionalGeneration",
        processors.PixtralProcessor,
        _PROJECTED,
        _resized,
        _mistral_defaults,
        usual_images.resized,
    ),
}
