"""Recipes that cannot work, and keys that would do nothing: refused in one line, before anything is loaded."""

from pathlib import Path

import pytest
from transformers import TrainerCallback

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.checks import refuse_unsupported
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.recipe.trainer_keys import policies
from llava_mocle.training.loop.trainer import MocleTrainer
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
        ({"remove_unused_columns": True}, "remove_unused_columns is True: .*leave it out"),
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


VALUES = {
    "resume_from_checkpoint": "runs/mine/checkpoint-2",
    "train_sampling_strategy": "sequential",
    "length_column_name": "size",
    "label_smoothing_factor": 0.1,
    "save_on_each_node": True,
    "push_to_hub": True,
    "enable_jit_checkpoint": True,
    "auto_find_batch_size": True,
    "optim_target_modules": "all-linear",
    "fsdp": "full_shard",
    "ignore_data_skip": True,
    "average_tokens_across_devices": False,
    "dataloader_in_order": False,
    "label_names": ["labels"],
    "include_for_metrics": ["loss"],
    "batch_eval_metrics": True,
    "fp16_full_eval": True,
    "bf16_full_eval": True,
    "do_predict": True,
    "save_only_model": True,
    "remove_unused_columns": True,
    "greater_is_better": True,
}


@pytest.mark.parametrize("key", VALUES)
def test_a_key_without_effect_is_refused(recipe_file, tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} is ") as caught:
        train(load_recipe(recipe_file(**{key: VALUES[key]})))
    assert policies()[key].refused in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_to_write_instead(recipe_file) -> None:
    with pytest.raises(ConfigError, match="--resume FOLDER"):
        train(load_recipe(recipe_file(), ["--resume_from_checkpoint", "runs/mine/checkpoint-2"]))
    with pytest.raises(ConfigError, match="do_eval is true, but eval_strategy"):
        train(load_recipe(recipe_file(do_eval=True)))
    with pytest.raises(ConfigError, match="accelerator_config: split_batches is True"):
        train(load_recipe(recipe_file(accelerator_config={"split_batches": True})))


def test_defaults_and_old_flags_are_let_by(recipe_file) -> None:
    values = {"label_smoothing_factor": 0, "resume_from_checkpoint": None, "do_train": True, "push_to_hub": False}
    values |= {"accelerator_config": {"non_blocking": False}, "include_for_metrics": []}
    keys = {"max_steps": 1, "do_eval": True, "eval_strategy": "steps", "eval_steps": 1}
    assert train(load_recipe(recipe_file(**values, **keys))).state.global_step == 1


@pytest.mark.parametrize(("key", "value"), [("fsdp", False), ("fsdp", []), ("fsdp_config", {}), ("label_names", [])])
def test_off_is_let_by(recipe_file, key: str, value: object) -> None:
    recipe = load_recipe(recipe_file(**{key: value}))
    refuse_unsupported(recipe, recipe.training_arguments())


def test_fewer_rows_than_a_batch(recipe_file, tmp_path: Path) -> None:
    """73 samples a pass."""
    keys = {"per_device_train_batch_size": 40, "gradient_accumulation_steps": 2, "max_steps": -1}
    with pytest.raises(ConfigError, match=r"73 samples make no whole global batch of 80 .*40 x .* 2 x 1 processes"):
        train(load_recipe(recipe_file(**keys, dataloader_drop_last=True)))
    assert train(load_recipe(recipe_file(**keys))).state.global_step == 1


class Stop(TrainerCallback):
    """Ends a run as somebody else's callback may."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 1
        return control


def test_only_a_chosen_stop_speaks_of_its_key(recipe_file, tmp_path: Path, caplog) -> None:
    train(load_recipe(recipe_file(), ["--stop_after_steps", "1"]))
    assert "stopped at step 1 of 4; the same command without stop_after_steps goes on" in caplog.text
    caplog.clear()

    class Stopping(MocleTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.add_callback(Stop())

    train(load_recipe(recipe_file(output_dir=str(tmp_path / "other"))), Stopping)
    assert "stopped at step 1 of 4; the same command goes on" in caplog.text
