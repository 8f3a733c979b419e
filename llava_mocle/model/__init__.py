"""Building and loading models. Importing this package makes those with a grid vision tower known to `AutoModel`."""

from llava_mocle.families import grid_instructblip, grid_tower
from llava_mocle.families.grid_tower import GridVisionConfig, GridVisionModel
from llava_mocle.families.image_tokens import image_tokens_per_image
from llava_mocle.model.build import build_llava
from llava_mocle.model.load import LoadedModel, load_model
from llava_mocle.model.projector import load_projector, save_projector

grid_tower.register()
grid_instructblip.register()

__all__ = [
    "GridVisionConfig",
    "GridVisionModel",
    "LoadedModel",
    "build_llava",
    "image_tokens_per_image",
    "load_model",
    "load_projector",
    "save_projector",
]
