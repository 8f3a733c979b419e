"""Recipes that cannot work end in one line, before anything is loaded or trained."""

from pathlib import Path

import pytest

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train


def without_held_out(mix: list[dict]) -> list[dict]:
    return [{key: value for key, value in spec.items() if key != "eval_data_path"} for spec in mix]


@pytest.mark.parametrize("asked", [{"eval_strategy": "epoch"}, {"eval_on_start": True}])
def test_validation_without_held_out_rows(recipe_file, mix: list[dict], asked: dict) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(asked))} is (epoch|true), but no dataset .*eval_data_path"):
        train(load_recipe(recipe_file(datasets=without_held_out(mix), **asked)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0, expected a whole number from 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"stop_after_steps": -1}, "stop_after_steps is -1, expected a whole number from 1"),
        ({"remove_unused_columns": True}, "remove_unused_columns is true, .*leave it out"),
        (
            {"gradient_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}},
            "activation_checkpointing_kwargs is .*re-entrant",
        ),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            "activation_checkpointing_kwargs is .*re-entrant",
        ),
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16' without bf16 or fp16: .*set `bf16: true`"),
        ({"dtype": "float16", "stage": "pretrain"}, "dtype is 'float16' without bf16 or fp16"),
        ({"mm_vision_select_layer": -1}, "mm_vision_select_layer is -1, but vision_tower is not set"),
        ({"mm_vision_select_feature": "full"}, "mm_vision_select_feature is 'full', but vision_tower is not set"),
    ],
)
def test_refused(recipe_file, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(load_recipe(recipe_file(max_steps=1, **changes)))


def test_checkpointing_options_without_the_kind_are_not_reentrant(recipe_file, tmp_path: Path) -> None:
    keys = {"gradient_checkpointing": True, "activation_checkpointing_kwargs": {"preserve_rng_state": True}}
    args = load_recipe(recipe_file(**keys)).training_arguments()
    assert args.activation_checkpointing_kwargs == {"use_reentrant": False, "preserve_rng_state": True}


def test_every_name_of_a_list_of_targets_matches(recipe_file) -> None:
    with pytest.raises(ConfigError, match=r"no linear named down_porj; its linears are .*down_proj.*up_proj"):
        train(load_recipe(recipe_file(lora_target_modules="up_proj,down_porj")))


def test_a_start_without_a_tower(recipe_file) -> None:
    recipe = load_recipe(recipe_file(max_steps=1))
    recipe.model.vision_tower = recipe.model.pretrain_mm_mlp_adapter = ""
    assert train(recipe).state.global_step == 1
