"""What vLLM calls when it starts, if this package is installed beside it: makes LLaVA with a grid vision tower known.

vLLM's own LLaVA has CLIP, SigLIP and Pixtral towers. Other models need no plug-in.
"""

from typing import Any

GRID_TOWER = "llava_mocle_grid"
GRID_ARCHITECTURE = "LlavaMocleGridForConditionalGeneration"
_PLAIN_ARCHITECTURE = "LlavaForConditionalGeneration"


def architecture_of(config: Any) -> str:
    """The name by which engines know the class of a LLaVA model."""
    return GRID_ARCHITECTURE if config.vision_config.model_type == GRID_TOWER else _PLAIN_ARCHITECTURE


def register() -> None:
    """Make the grid tower known to transformers and the model to vLLM. It may be called more than once."""
    from vllm import ModelRegistry

    from llava_mocle.families import grid_tower

    grid_tower.register()
    if GRID_ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(GRID_ARCHITECTURE, "llava_mocle.export.vllm_grid:GridLlava")
