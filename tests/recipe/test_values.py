"""Values of recipe keys: switched off, of the wrong type, and said twice."""

from pathlib import Path

import pytest
import yaml

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.recipe import load_recipe, write_recipe


def write(folder: Path, **values: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("word", ["none", "None", "null", ""])
def test_a_flag_switches_a_key_off(tmp_path: Path, word: str) -> None:
    path = write(
        tmp_path, gate_noise_std=0.1, mm_projector_lr=2e-5, vision_tower="clip", pretrain_mm_mlp_adapter="p.bin",
        mm_vision_select_feature="patch", mm_vision_select_layer=-2, deepspeed="zero.json", eval_steps=4,
    )  # fmt: skip
    keys = ("gate_noise_std", "mm_projector_lr", "vision_tower", "pretrain_mm_mlp_adapter")
    keys += ("mm_vision_select_feature", "mm_vision_select_layer", "deepspeed", "eval_steps")
    recipe = load_recipe(path, [text for key in keys for text in (f"--{key}", word)])
    assert recipe.adapter.gate_noise_std is None
    assert recipe.stage.mm_projector_lr is None
    model = recipe.model
    assert (model.vision_tower, model.pretrain_mm_mlp_adapter) == (None, None)
    assert (model.mm_vision_select_feature, model.mm_vision_select_layer) == (None, None)
    assert (recipe.trainer["deepspeed"], recipe.trainer["eval_steps"]) == (None, None)


def test_the_word_in_a_file_too_but_not_where_it_is_a_value(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, vision_tower="none", mm_vision_select_feature="none", report_to="none"))
    assert (recipe.model.vision_tower, recipe.model.mm_vision_select_feature) == (None, None)
    assert recipe.trainer["report_to"] == "none"
    assert load_recipe(None, ["--report_to", "none"]).trainer["report_to"] == "none"
    with pytest.raises(ConfigError, match="lora_r"):
        load_recipe(None, ["--lora_r", "none"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_r": 12.5}, r"recipe\.yaml: lora_r is 12\.5, expected a whole number"),
        ({"num_experts": None}, r"recipe\.yaml: num_experts is empty, expected a whole number"),
        ({"per_device_train_batch_size": 2.5}, "per_device_train_batch_size is 2.5, expected a whole number"),
        ({"lora_r": True}, "lora_r is True, expected a whole number"),
        ({"learning_rate": {"a": 1}}, "learning_rate is .*, expected a number"),
        ({"bf16": 3}, "bf16 is 3, expected true or false"),
        ({"cluster_model": ["a"]}, r"cluster_model is \['a'\], expected text"),
        ({"lora_target_modules": [1]}, r"lora_target_modules is \[1\], expected text"),
        ({"save_strategy": False}, 'save_strategy is False, expected one of .*quote it, .*"no"'),
    ],
)
def test_wrong_types(tmp_path: Path, values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path, **values))


def test_targets_as_pefts_list(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, lora_target_modules=["q_proj", "v_proj"]))
    assert recipe.adapter.lora_target_modules == "q_proj,v_proj"


def test_a_flag_wins_over_the_files_other_key(tmp_path: Path) -> None:
    path = write(tmp_path, warmup_ratio=0.03, activation_checkpointing=True)
    recipe = load_recipe(path, ["--warmup_steps", "7", "--gradient_checkpointing", "false"])
    args = recipe.training_arguments(output_dir=str(tmp_path))
    assert (args.warmup_steps, args.activation_checkpointing) == (7, False)
    write_recipe(recipe, tmp_path / "resolved.yaml")
    assert load_recipe(tmp_path / "resolved.yaml").trainer["warmup_ratio"] is None
    other = load_recipe(write(tmp_path, warmup_steps=100), ["--warmup_ratio", "0.5"])
    assert other.training_arguments(output_dir=str(tmp_path)).warmup_steps == 0.5
    kept = load_recipe(write(tmp_path, warmup_steps=100), ["--warmup_ratio", "none"])
    assert kept.training_arguments(output_dir=str(tmp_path)).warmup_steps == 100


@pytest.mark.parametrize("in_file", [True, False])
def test_both_in_one_place(tmp_path: Path, in_file: bool) -> None:
    path = write(tmp_path, **({"warmup_ratio": 0.03, "warmup_steps": 7} if in_file else {}))
    words = [] if in_file else ["--warmup_ratio", "0.03", "--warmup_steps", "7"]
    with pytest.raises(ConfigError, match=r"both warmup_ratio \(0\.03\) and warmup_steps \(7"):
        load_recipe(path, words)


def test_a_warm_up_of_no_steps_is_no_second_say(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("warmup_ratio: 0.25\nwarmup_steps: 0\n")
    assert load_recipe(path).training_arguments(output_dir=str(tmp_path)).warmup_steps == 0.25
    # But as a flag it switches the file's warm-up off.
    path.write_text("warmup_ratio: 0.25\n")
    assert load_recipe(path, ["--warmup_steps", "0"]).training_arguments(output_dir=str(tmp_path)).warmup_steps == 0


@pytest.mark.parametrize("key", ["image_folder", "eval_data_path"])
def test_one_datasets_keys_beside_a_list(tmp_path: Path, key: str) -> None:
    datasets = [{"name": "a", "data_path": "a.json"}]
    with pytest.raises(ConfigError, match=f"{key} is 'there' beside `datasets`"):
        load_recipe(write(tmp_path, datasets=datasets, **{key: "there"})).data.dataset_specs()
    # A list on the command line takes the place of the file's one dataset, with all its keys.
    path = write(tmp_path, data_path="b.json", **{key: "there"})
    specs = load_recipe(path, ["--datasets", '[{"name": "a", "data_path": "a.json"}]']).data.dataset_specs()
    assert [spec.data_path for spec in specs] == ["a.json"]


def test_how_clusters_are_made_is_written_only_where_it_was_said(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, data_path="a.json", num_clusters=4), ["--cluster_seed", "3"])
    write_recipe(recipe, tmp_path / "resolved.yaml")
    again = load_recipe(tmp_path / "resolved.yaml")
    assert again.as_dict() == recipe.as_dict()
    asked = {"num_clusters", "cluster_seed", "cluster_encoder", "instruction_turns", "cluster_n_init"} & again.given
    assert asked == {"num_clusters", "cluster_seed"}
