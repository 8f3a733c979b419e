"""InstructBLIP around the grid tower, for machines without a GPU: transformers' class builds its own vision tower.

The features of a convolution do not say where they are. So the norm behind the tower, which is trained, adds a learnt
vector for each place.
"""

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, InstructBlipConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.instructblip.modeling_instructblip import (
    InstructBlipPreTrainedModel,
    InstructBlipQFormerModel,
)

from llava_mocle.families.grid_tower import GridVisionConfig, GridVisionModel
from llava_mocle.families.instructblip import InstructBlipForConditionalGeneration


class GridInstructBlipConfig(InstructBlipConfig):
    """`InstructBlipConfig` whose `vision_config` is a `GridVisionConfig`."""

    model_type = "llava_mocle_grid_instructblip"
    sub_configs_defaults: ClassVar = InstructBlipConfig.sub_configs_defaults | {"vision_config": GridVisionConfig}


class PlacedNorm(nn.Module):
    """A LayerNorm, then a learnt vector for each of the places.

    Args:
        places: P, of an image.
        width: D, of its features.
    """

    def __init__(self, places: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.places = nn.Embedding(places, width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, P, D) -> (N, P, D)."""
        return self.norm(features) + self.places.weight


class PlacedGridTower(nn.Module):
    """The grid tower and the norm behind it, under the names of InstructBLIP's own vision model."""

    def __init__(self, config: GridVisionConfig) -> None:
        super().__init__()
        self.tower = GridVisionModel(config)
        self.post_layernorm = PlacedNorm(config.grid_size**2, config.hidden_size)

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """As `GridVisionModel.forward`."""
        features = self.post_layernorm(self.tower(pixel_values).last_hidden_state)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=features.mean(dim=1))

    @property
    def feature_cache_size(self) -> int:
        """The tower's."""
        return self.tower.feature_cache_size

    @feature_cache_size.setter
    def feature_cache_size(self, size: int) -> None:
        self.tower.feature_cache_size = size


class GridInstructBlip(InstructBlipForConditionalGeneration):
    """InstructBLIP with the grid tower in place of its own; all else, and all names, are InstructBLIP's."""

    config_class = GridInstructBlipConfig

    def __init__(self, config: GridInstructBlipConfig) -> None:
        InstructBlipPreTrainedModel.__init__(self, config)
        qformer, text = config.qformer_config, config.text_config
        self.vision_model = PlacedGridTower(config.vision_config)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, qformer.hidden_size))
        self.qformer = InstructBlipQFormerModel._from_config(qformer)
        self.language_projection = nn.Linear(qformer.hidden_size, text.hidden_size)
        self.language_model = AutoModelForCausalLM.from_config(text)
        self.post_init()


def register() -> None:
    """Make it known to transformers' Auto classes (done on importing `llava_mocle.model`)."""
    AutoConfig.register(GridInstructBlipConfig.model_type, GridInstructBlipConfig, exist_ok=True)
    AutoModelForImageTextToText.register(GridInstructBlipConfig, GridInstructBlip, exist_ok=True)
