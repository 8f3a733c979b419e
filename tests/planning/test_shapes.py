"""Sizes read off the meta model against arithmetic from the published configuration."""

from pathlib import Path

import pytest

from llava_mocle.planning.measure import measure_shape
from llava_mocle.planning.shapes import Site
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.setup.adapter import count_parameters
from llava_mocle.training.setup.meta_model import meta_model

RECIPES = Path(__file__).parents[2] / "scripts" / "recipes"


@pytest.fixture(scope="module")
def model():
    return meta_model(load_recipe(RECIPES / "llava_v1_5_7b_mocle.yaml"))


def test_7b_by_hand(model):
    shape = measure_shape(model)
    hidden, wide, layers, vocab = 4096, 11008, 32, 32064
    linear = layers * (4 * hidden**2 + 3 * hidden * wide)
    assert shape.layer_linear == linear
    assert shape.counts.language_model == linear + 2 * vocab * hidden + (2 * layers + 1) * hidden
    # Five experts of rank 128 at two sites a layer; four gates a site on 384 dimensions, and four centroids.
    assert shape.counts.experts == layers * 2 * 5 * 128 * (hidden + wide) == 618_659_840
    assert shape.counts.router == layers * 2 * 4 * 384 + 4 * 384 == 99_840
    projector = 1024 * hidden + hidden + hidden**2 + hidden
    assert shape.counts.projector == shape.counts.frozen_projector == projector == 20_979_712
    # CLIP ViT-L/14 at 336: patches, class token, positions, three norms outside of the layers, 24 layers.
    width = 1024
    layer = 4 * (width**2 + width) + 2 * 4 * width**2 + 4 * width + width + 4 * width
    assert shape.counts.vision_tower == 3 * 14**2 * width + width + 577 * width + 4 * width + 24 * layer
    # Backward: the first linear reads frozen features and passes no gradient down.
    first, second = 2 * 576 * 1024 * hidden, 2 * 576 * hidden**2
    assert shape.connector.forward_flops == first + second
    assert shape.connector.backward_flops == first + 2 * second
    # The inputs of both linears and of the GELU between them.
    assert shape.connector.kept == 576 * (1024 + 2 * hidden)
    assert shape.layer_sites == ((Site("up_proj", hidden, wide), Site("down_proj", wide, hidden)),) * layers


def test_7b_agrees_with_the_dry_run(model):
    shape, counted = measure_shape(model), count_parameters(model)
    assert shape.counts.all == counted["all"]
    assert shape.counts.trainable == counted["trainable"] == 639_739_392


def test_7b_vision_operations_by_hand(model):
    tower = measure_shape(model).tower
    width, positions, patches = 1024, 577, 576
    assert tower.image_tokens == 576
    assert tower.linear_flops == 24 * 2 * positions * (4 * width**2 + 8 * width**2)
    assert tower.attention_flops == 24 * 4 * positions**2 * width
    assert tower.other_flops == 2 * patches * width * 3 * 14**2


def test_stage_1_trains_the_projector_alone():
    shape = measure_shape(meta_model(load_recipe(RECIPES / "llava_v1_5_7b_pretrain.yaml")))
    assert shape.counts.trainable == shape.counts.projector == 20_979_712
    assert shape.counts.frozen_projector == 0
    assert shape.experts is None
    assert not any(shape.layer_sites)


@pytest.mark.parametrize(
    ("adapter", "active", "slots", "routed"),
    [("mocle", 2, 5, True), ("cluster", 1, 4, True), ("dataset", 1, 4, True), ("lora", 1, 1, False)],
)
def test_every_adapter(adapter, active, slots, routed):
    recipe = load_recipe(RECIPES / "llava_v1_5_7b_mocle.yaml", ["--adapter", adapter, "--lora_r", "8"])
    shape = measure_shape(meta_model(recipe))
    experts = shape.experts
    assert (experts.active, experts.slots, experts.routed, experts.rank) == (active, slots, routed, 8)
    assert shape.counts.experts == 32 * 2 * slots * 8 * (4096 + 11008)
