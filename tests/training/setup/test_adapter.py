"""What each stage trains, and the one `MocleConfig` of every adapter kind."""

import re

import pytest
import torch

from llava_mocle.errors import ConfigError
from llava_mocle.families.llava import LlavaFamily
from llava_mocle.families.parts import target_pattern
from llava_mocle.recipe.keys import AdapterArguments
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train
from llava_mocle.training.setup.adapter import adapter_config

LLAVA = LlavaFamily.parts(None)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mocle", {"router": "cluster", "num_experts": 4, "universal_expert": True, "num_clusters": 7}),
        ("cluster", {"router": "cluster", "num_experts": 4, "universal_expert": False, "num_clusters": 7}),
        ("dataset", {"router": "dataset", "num_experts": 4, "universal_expert": False, "num_clusters": 3}),
        ("lora", {"router": "none", "num_experts": 1, "universal_expert": False, "top_k": 1}),
    ],
)
def test_one_configuration_a_kind(kind: str, expected: dict) -> None:
    arguments = AdapterArguments(adapter=kind, lora_r=8, lora_alpha=16)
    config = adapter_config(arguments, LLAVA, datasets=["a", "b", "c"], centroids=None, cluster_shape=(7, 5))
    assert {key: getattr(config, key) for key in expected} == expected
    assert (config.r, config.lora_alpha) == (8, 16)
    assert config.modules_to_save == ["multi_modal_projector"]


def test_a_fixed_embedding_is_not_trained() -> None:
    arguments = AdapterArguments(adapter="cluster", train_cluster_embedding=False)
    assert not adapter_config(
        arguments, LLAVA, datasets=["a", "b", "c"], centroids=None, cluster_shape=(7, 5)
    ).train_cluster_embedding


def test_targets_lie_in_the_language_model() -> None:
    pattern = target_pattern(LLAVA, "up_proj, q_proj")
    assert re.fullmatch(pattern, "model.language_model.layers.3.mlp.up_proj")
    assert re.fullmatch(pattern, "model.language_model.layers.3.self_attn.q_proj")
    assert not re.fullmatch(pattern, "model.vision_tower.encoder.layers.3.self_attn.q_proj")
    assert not re.fullmatch(pattern, "model.language_model.layers.3.mlp.down_proj")
    assert target_pattern(LLAVA, r".*my\.own") == r".*my\.own"
    with pytest.raises(ConfigError, match="lora_target_modules is empty"):
        target_pattern(LLAVA, " , ")


def test_target_that_matches_nothing(recipe_file) -> None:
    with pytest.raises(ConfigError, match="no_such_proj"):
        train(load_recipe(recipe_file(lora_target_modules="no_such_proj")))


@pytest.mark.parametrize("stage", ["finetune", "pretrain"])
def test_trainable_parameters_of_a_16_bit_base_are_float32(recipe_file, stage: str) -> None:
    trainer = train(load_recipe(recipe_file(stage=stage, max_steps=2, bf16=True, dtype="bfloat16")))
    dtypes = {parameter.requires_grad: parameter.dtype for parameter in trainer.model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(torch.isfinite(torch.tensor(losses)))
