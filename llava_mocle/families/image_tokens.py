"""How many tokens an image becomes in LLaVA, and whether it has the size that the vision tower takes."""

from pathlib import Path
from typing import Any

from llava_mocle.errors import CheckpointError, ConfigError

# Towers of square patches: model type -> tokens in front of the patches (the class token).
_LEADING_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0, "siglip2_vision_model": 0}


def leading_tokens(vision_config: Any) -> int:
    """Tokens that a vision tower puts in front of its patches: 1 for a class token, else 0."""
    return _LEADING_TOKENS.get(vision_config.model_type, 0)


def image_tokens_per_image(config: Any, image_size: int | None = None) -> int:
    """Image tokens of one image under a `LlavaConfig`.

    Args:
        config: the model's configuration.
        image_size: side of the processed image in pixels; default: the vision tower's.

    Raises:
        ConfigError: "default" selection (drop the class token) on a tower without one.
    """
    vision = config.vision_config
    if vision.model_type == "llava_mocle_grid":
        tokens = vision.grid_size**2
    elif vision.model_type in _LEADING_TOKENS:
        tokens = ((image_size or vision.image_size) // vision.patch_size) ** 2 + leading_tokens(vision)
    else:
        return config.image_seq_length
    if config.vision_feature_select_strategy == "default":
        if not leading_tokens(vision):
            raise ConfigError(
                f"vision_feature_select_strategy is 'default', which drops the class token, but a {vision.model_type} "
                "has none: the first image token would be lost. Use 'full'."
            )
        tokens -= 1
    return tokens


def check_image_size(processor: Any, vision_config: Any, folder: Path) -> None:
    """`CheckpointError` where processor and vision tower disagree about the image size."""
    if getattr(processor, "do_center_crop", False) and processor.crop_size:
        made = processor.crop_size["height"]
    else:
        made = processor.size["height"] or processor.size["shortest_edge"]
    taken = getattr(vision_config, "image_size", None)
    if made and taken and made != taken:
        raise CheckpointError(
            f"{folder}/preprocessor_config.json: images become {made} px high, but the vision tower takes {taken} px; "
            f"set crop_size (and size) to {taken}."
        )
