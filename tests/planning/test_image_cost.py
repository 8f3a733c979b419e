"""Every kind of model: counts on the meta device against the same model with weights, and against hand formulas."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlavaNextConfig, Qwen2VLConfig

from llava_mocle.adapter import MocleConfig
from llava_mocle.families.parts import connector_parameters, target_pattern
from llava_mocle.families.processor_types import MODEL_KINDS
from llava_mocle.families.registry import family_of
from llava_mocle.planning.compute import training_flops
from llava_mocle.planning.measure import measure_shape
from llava_mocle.planning.shapes import ModelShape
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.dry_run import meta_model
from tests.families.tiny import TINY, make_tokenizer

RECIPES = Path(__file__).parents[2] / "scripts" / "recipes"
TEXT_TOKENS = 12

every_kind = pytest.mark.parametrize("kind", sorted(TINY))


def config_of(kind: str) -> Any:
    tokenizer = make_tokenizer(TINY[kind])
    return TINY[kind].config(tokenizer.convert_tokens_to_ids, len(tokenizer))


def adapted(config: Any, device: str) -> Any:
    """As a recipe without choices of its own trains it, with attention that torch's counter sees."""
    family = family_of(config)
    parts = family.parts(config)
    with torch.device(device):
        model = family.model_class(config)._from_config(config, attn_implementation="eager")
        model = get_peft_model(
            model,
            MocleConfig(
                task_type="CAUSAL_LM",
                target_modules=target_pattern(parts, ",".join(parts.targets)),
                modules_to_save=list(parts.connector),
                parameters_to_save=list(parts.parameters) or None,
                r=4,
                num_experts=2,
                num_clusters=2,
                cluster_dim=8,
            ),
        )
    model.base_model.fused = False  # torch's counter does not see into functions of autograd
    return model


@cache
def measured(kind: str) -> ModelShape:
    return measure_shape(adapted(config_of(kind), "meta"))


def counted(kind: str) -> tuple[int, int]:
    """Length of a sample with one image, and operations of its forward and backward, with weights and values."""
    config = config_of(kind)
    model = adapted(config, "cpu")
    images = family_of(config).typical_image(config)
    pictured = measured(kind).tower.image_tokens
    ids = torch.tensor([[3] + [config.image_token_id] * pictured + [4] * (TEXT_TOKENS - 1)])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    token_types = MODEL_KINDS[kind].token_types
    if token_types:
        inputs[token_types] = (ids == config.image_token_id).int()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss = model(**inputs, **images, cluster_ids=torch.tensor([1])).loss
        loss.backward()
    return ids.shape[1], counter.get_total_flops()


# torch counts the gates' products as well, and the rotary tables': below 1 % even at these sizes.
TOLERANCE = 0.01


@every_kind
def test_operations_of_a_training_step(kind: str) -> None:
    shape = measured(kind)
    length, both = counted(kind)
    found = training_flops(shape, samples=1, length=length, images=1, checkpointing=False)
    assert found.total == pytest.approx(both, rel=TOLERANCE)


@every_kind
def test_every_parameter_is_counted_once(kind: str) -> None:
    config = config_of(kind)
    model, counts = adapted(config, "meta"), measured(kind).counts
    sizes = {name: (value.numel(), value.requires_grad) for name, value in model.named_parameters()}
    assert counts.all == sum(size for size, _ in sizes.values())
    assert counts.trainable == sum(size for size, trained in sizes.values() if trained)
    parts = family_of(config).parts(config)
    with torch.device("meta"):
        plain = family_of(config).model_class(config)(config)
    connector = connector_parameters(parts, plain)
    own = {name: value.numel() for name, value in plain.named_parameters()}
    assert counts.projector == sum(own[name] for name in connector) > 0
    # Bare parameters are trained in place; of modules PEFT keeps the original.
    assert counts.frozen_projector == sum(own[name] for name in connector if not name.endswith(parts.parameters or "-"))
    tower = sum(size for name, size in own.items() if f"{parts.tower}." in name and name not in connector)
    assert counts.vision_tower == tower > 0
    assert counts.language_model == sum(own.values()) - tower - counts.projector


@every_kind
def test_sites_stand_in_every_layer(kind: str) -> None:
    shape, text = measured(kind), config_of(kind).get_text_config()
    assert shape.layers == text.num_hidden_layers
    for sites in shape.layer_sites:
        assert [(site.name, site.in_features, site.out_features) for site in sites] == [
            ("up_proj", 32, 48),
            ("down_proj", 48, 32),
        ]


def test_tied_embeddings_are_counted_once() -> None:
    config = config_of("gemma3")
    apart = measured("gemma3").counts.language_model
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    together = measure_shape(adapted(config, "meta"))
    assert apart - together.counts.language_model == together.vocab * together.hidden


def test_next_by_hand() -> None:
    """CLIP ViT-L/14 at 336, five tiles of an image of 672 x 448: four of it padded to 672 x 672, and the whole."""
    config = LlavaNextConfig(text_config={"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1})
    shape = measure_shape(adapted(config, "meta"))
    width, hidden, positions = 1024, 64, 577
    # 576 of the whole; 48 x 48 less the 8 rows of padding above and below, each row with its end.
    assert shape.tower.image_tokens == 576 + (48 - 16) * (48 + 1)
    assert shape.tower.linear_flops == 5 * 24 * 2 * positions * 12 * width**2
    assert shape.tower.attention_flops == 5 * 24 * 4 * positions**2 * width
    assert shape.tower.other_flops == 5 * 2 * 576 * width * 3 * 14**2
    first, second = 2 * 5 * 576 * width * hidden, 2 * 5 * 576 * hidden**2
    assert (shape.connector.forward_flops, shape.connector.backward_flops) == (first + second, first + 2 * second)


def test_qwen_by_hand() -> None:
    """The merger stands inside the tower, and the tower reads how many patches there are from a tensor's values."""
    vision = {"depth": 3, "embed_dim": 64, "hidden_size": 32, "num_heads": 4, "patch_size": 14, "mlp_ratio": 4}
    config = config_of("qwen2_vl")
    config = Qwen2VLConfig(text_config=config.text_config.to_dict(), vision_config=vision)
    shape = measure_shape(adapted(config, "meta"))
    patches, width, hidden = 48 * 32, 64, 32
    assert shape.tower.image_tokens == patches // 4 == 384
    assert shape.tower.linear_flops == 3 * 2 * patches * 12 * width**2
    assert shape.tower.attention_flops == 3 * 4 * patches**2 * width
    assert shape.tower.other_flops == 2 * patches * width * 3 * 2 * 14**2
    merged = 2 * 384 * ((4 * width) ** 2 + 4 * width * hidden)
    # Its norm is trained, so its first linear passes a gradient down as well.
    assert (shape.connector.forward_flops, shape.connector.backward_flops) == (merged, 2 * merged)
    # Read by the norm, by both linears and by the GELU; the norm's mean and deviation of each patch.
    assert shape.connector.kept == 4 * patches * width + 2 * patches


def test_instructblip_as_the_recipe_has_it() -> None:
    """Vicuna-7B and ViT-g. The Q-Former reads 32 queries and a question of 32 tokens."""
    shape = measure_shape(meta_model(load_recipe(RECIPES / "instructblip_vicuna_7b_mocle.yaml")))
    assert shape.tower.image_tokens == 32
    assert shape.counts.experts == 20_971_520  # Table 5(d) of the paper: 20.97M
    positions, width, wide = 257, 1408, 6144
    assert shape.tower.linear_flops == 39 * 2 * positions * (4 * width**2 + 2 * width * wide)
    inner, read = 768, 64
    attention = read * 4 * inner**2 + 4 * read**2 * inner // 2
    crossed = 32 * 2 * inner**2 + positions * 2 * width * inner + 2 * 32 * positions * inner
    # Queries and text have MLPs of their own; every second layer looks at the image.
    mlp = read * 2 * inner * 4 * inner
    assert shape.connector.forward_flops == 2 * (12 * (attention + mlp) + 6 * crossed + 32 * inner * 4096)
