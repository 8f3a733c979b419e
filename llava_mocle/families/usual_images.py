"""How published models of each kind prepare images, as far as their `config.json` tells: for plans, without a folder.

A folder's own `preprocessor_config.json` may say otherwise. Each function makes an image processor of a configuration.
"""

from typing import Any

import transformers

# Width and height in pixels of an image of usual size: a photograph of 3 : 2.
USUAL_SIZE = (672, 448)


def next_tiles(config: Any) -> Any:
    side = config.vision_config.image_size
    return transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=config.image_grid_pinpoints,
    )


def onevision_tiles(config: Any) -> Any:
    return transformers.LlavaOnevisionImageProcessorPil(
        size=_square(config.vision_config.image_size), image_grid_pinpoints=config.image_grid_pinpoints
    )


def patches(config: Any) -> Any:
    """Qwen's. The published sizes leave an image of `USUAL_SIZE` as it is, up to a multiple of a merged patch."""
    vision = config.vision_config
    return transformers.Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
    )


def crops(config: Any) -> Any:
    """InternVL's: up to 12 crops, and the whole image."""
    side = config.vision_config.image_size[0]
    return transformers.GotOcr2ImageProcessorPil(size=_square(side), crop_to_patches=True)


def split(config: Any) -> Any:
    """Idefics3's and SmolVLM's: the longer side becomes four tiles, and the whole image one more."""
    side = config.vision_config.image_size
    return transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 4 * side}, max_image_size={"longest_edge": side}, do_image_splitting=True
    )


def square(config: Any) -> Any:
    """Gemma's and PaliGemma's: one size for all images."""
    return transformers.SiglipImageProcessorPil(size=_square(config.vision_config.image_size))


def resized(config: Any) -> Any:
    """Mistral 3's: made smaller where it is too large."""
    vision = config.vision_config
    side = vision.patch_size * config.spatial_merge_size
    return transformers.PixtralImageProcessorPil(
        size={"longest_edge": vision.image_size}, patch_size={"height": side, "width": side}
    )


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}
