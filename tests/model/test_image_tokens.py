from types import SimpleNamespace

import pytest
from transformers import CLIPVisionConfig, LlavaConfig, SiglipVisionConfig

from llava_mocle.errors import ConfigError
from llava_mocle.model import GridVisionConfig, image_tokens_per_image


def config(vision, strategy):
    return LlavaConfig(vision_config=vision, vision_feature_select_strategy=strategy)


@pytest.mark.parametrize(
    ("vision", "strategy", "tokens"),
    [
        (CLIPVisionConfig(image_size=336, patch_size=14), "default", 576),  # LLaVA-1.5
        (CLIPVisionConfig(image_size=336, patch_size=14), "full", 577),
        (CLIPVisionConfig(image_size=224, patch_size=14), "default", 256),
        (SiglipVisionConfig(image_size=384, patch_size=14), "full", 729),
        (GridVisionConfig(grid_size=4), "full", 16),
        (GridVisionConfig(grid_size=7), "full", 49),
    ],
)
def test_known_towers(vision, strategy, tokens):
    assert image_tokens_per_image(config(vision, strategy)) == tokens


def test_another_image_size():
    clip = config(CLIPVisionConfig(image_size=224, patch_size=14), "default")
    assert image_tokens_per_image(clip, image_size=336) == 576


@pytest.mark.parametrize("vision", [SiglipVisionConfig(), GridVisionConfig()])
def test_dropping_a_class_token_that_is_not_there(vision):
    with pytest.raises(ConfigError, match="Use 'full'"):
        image_tokens_per_image(config(vision, "default"))


def test_an_unknown_tower_says_it_itself():
    unknown = SimpleNamespace(vision_config=SimpleNamespace(model_type="other"), image_seq_length=33)
    assert image_tokens_per_image(unknown) == 33
