"""Recipes: every one that ships resolves; a wrong key is named with the nearest right one."""

from pathlib import Path

import pytest
import yaml

from llava_mocle.cli.main import main
from llava_mocle.errors import ConfigError
from llava_mocle.recipe.checks import check_recipe
from llava_mocle.recipe.recipe import Recipe, load_recipe, recipe_of, trainer_defaults, write_recipe
from llava_mocle.recipe.trainer_keys import policies

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "scripts" / "recipes").glob("*.yaml"))
# Those of the benchmarks, and those that runs of an earlier release wrote.
OTHERS = [ROOT / "benchmarks/conflict/recipe.yaml", ROOT / "benchmarks/conflict/neutral.yaml"]
OTHERS += sorted((ROOT / "tests/training/checkpoints/fixtures").rglob("recipe.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_resolve(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.data.dataset_specs()
    assert recipe.training_arguments(report_to="none").output_dir == recipe.trainer["output_dir"]
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(recipe.as_dict()))
    assert load_recipe(again).as_dict() == recipe.as_dict()


def test_the_papers_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    recipe = load_recipe("scripts/recipes/llava_v1_5_7b_mocle.yaml")
    assert [spec.repeat for spec in recipe.data.dataset_specs()] == [1, 2, 9]
    args = recipe.training_arguments(report_to="none")
    assert (args.learning_rate, args.weight_decay, args.warmup_steps) == (1e-4, 0.0, 0.03)
    assert args.lr_scheduler_type == "cosine"
    assert args.activation_checkpointing_kwargs == {"use_reentrant": False}


def write(folder: Path, **values: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_unknown_keys_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe.yaml: unknown key 'lora_rank'.*'lora_r"):
        load_recipe(write(tmp_path, lora_rank=8))
    with pytest.raises(ConfigError, match=r"--gate_temprature.*'gate_temperature'"):
        load_recipe(None, ["--gate_temprature", "0.1"])


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("learnin_rate", "learning_rate"), ("learn_rate", "learning_rate"), ("gate_learnin_rate", "gate_learning_rate"),
        ("wieght_decay", "weight_decay"), ("max_step", "max_steps"), ("outputdir", "output_dir"),
        ("num_expert", "num_experts"), ("cluster_modell", "cluster_model"), ("image_foldr", "image_folder"),
        ("eval_step", "eval_steps"), ("stop_after", "stop_after_steps"), ("lora_alfa", "lora_alpha"), ("seeds", "seed"),
        ("gradient_acumulation_steps", "gradient_accumulation_steps"), ("save_totallimit", "save_total_limit"),
    ],
)  # fmt: skip
def test_the_nearest_key_of_all(tmp_path: Path, typo: str, meant: str) -> None:
    for place in (lambda: load_recipe(write(tmp_path, **{typo: 1})), lambda: load_recipe(None, [f"--{typo}", "1"])):
        with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
            place()


def test_a_key_that_is_refused_is_not_offered(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean") as caught:
        load_recipe(write(tmp_path, batch_size=1))
    assert "auto_find_batch_size" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_r": "many"}, "lora_r.*'many'"),
        ({"adapter": "moe"}, "adapter is 'moe', expected one of mocle"),
        ({"learning_rate": [1]}, r"learning_rate is \[1\]"),
        ({"learning_rate": "fast"}, "learning_rate.*'fast'"),
    ],
)
def test_wrong_values(tmp_path: Path, values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path, **values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no data"),
        ({"data_path": "a", "datasets": [{"name": "b", "data_path": "c"}]}, "both"),
        ({"datasets": [{"name": "b"}]}, "'data_path' is missing"),
        ({"datasets": [{"name": "b", "data_path": "c", "repeats": 2}]}, "unknown key 'repeats'"),
        ({"datasets": [{"name": "b", "data_path": "c"}] * 2}, "used twice"),
        ({"datasets": [{"name": "b", "data_path": "c", "repeat": 2, "weight": 2}]}, "both repeat .2. and weight .2."),
        (
            {"datasets": [{"name": "b", "data_path": "c", "weight": 2}, {"name": "d", "data_path": "e"}]},
            "'d' has no weight",
        ),
    ],
)
def test_wrong_datasets(tmp_path: Path, values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path, **values)).data.dataset_specs()


def test_the_command_line_wins(tmp_path: Path) -> None:
    path = write(tmp_path, lora_r=8, learning_rate="1e-4", data_path="a.json", image_folder="images")
    recipe = load_recipe(path, ["--lora_r", "16", "--datasets", "[]", "--bf16", "true"])
    assert (recipe.adapter.lora_r, recipe.trainer["learning_rate"], recipe.trainer["bf16"]) == (16, 1e-4, True)
    one = load_recipe(path).data.dataset_specs()
    assert [(spec.name, spec.data_path, spec.image_folder) for spec in one] == [("train", "a.json", "images")]


def test_one_dataset_on_the_command_line_replaces_the_list(tmp_path: Path) -> None:
    path = write(tmp_path, datasets=[{"name": "b", "data_path": "c"}])
    specs = load_recipe(path, ["--data_path", "mine.json"]).data.dataset_specs()
    assert [spec.data_path for spec in specs] == ["mine.json"]


def written(recipe: Recipe, folder: Path) -> Recipe:
    write_recipe(recipe, folder / "written" / "recipe.yaml")
    return load_recipe(folder / "written" / "recipe.yaml")


def assert_same(again: Recipe, recipe: Recipe) -> None:
    """All values, and what was given of the keys for which that makes a difference; own keys are all written."""
    assert {**vars(again), "source": None, "given": None} == {**vars(recipe), "source": None, "given": None}
    clustering = {key for key, policy in policies().items() if policy.clustering}
    told = clustering | trainer_defaults().keys()
    assert again.given & told == recipe.given & told


@pytest.mark.parametrize("flags", [[], ["--eval_strategy", "no", "--report_to", "none"]], ids=["as it is", "no eval"])
@pytest.mark.parametrize("path", [*RECIPES, *OTHERS], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_written_recipe_reads_back_the_same(path: Path, flags: list[str], tmp_path: Path) -> None:
    recipe = load_recipe(path, flags)
    again = written(recipe, tmp_path)
    assert_same(again, recipe)
    args = again.training_arguments(report_to="none", deepspeed=None)
    check_recipe(again, args)
    assert str(args.eval_strategy.value) == ("no" if flags else recipe.trainer["eval_strategy"])


def test_flags_of_llava_are_written_by_our_names(tmp_path: Path) -> None:
    words = ["--data_path", "a.json", "--version", "v1", "--bf16", "True", "--evaluation_strategy", "no"]
    recipe = load_recipe(None, [*words, "--learning_rate", "2e-4", "--max_steps", "7", "--lora_enable", "True"])
    again = written(recipe, tmp_path)
    assert_same(again, recipe)
    assert (again.trainer["learning_rate"], again.trainer["max_steps"], again.trainer["bf16"]) == (2e-4, 7, True)
    assert "eval_strategy" in again.given


def test_switching_validation_off_is_written(tmp_path: Path) -> None:
    """A run under a recipe with `eval_steps`, with its validation switched off, starts again from its own recipe."""
    path = write(tmp_path, data_path="a.json", eval_data_path="b.json", eval_strategy="steps", eval_steps=5)
    recipe = written(load_recipe(path, ["--eval_strategy", "no"]), tmp_path)
    check_recipe(recipe, recipe.training_arguments(output_dir=str(tmp_path)))
    silent = load_recipe(write(tmp_path, data_path="a.json", eval_data_path="b.json", eval_steps=5))
    args = silent.training_arguments(output_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="eval_steps is 5, but eval_strategy is no"):
        check_recipe(silent, args)


def test_defaults_that_are_given_are_written(tmp_path: Path) -> None:
    defaults = {key: value for key, value in trainer_defaults().items() if value is not None}
    del defaults["local_rank"]  # of a process, and not of a recipe
    recipe = recipe_of(defaults)
    assert defaults.keys() <= recipe.given
    assert_same(written(recipe, tmp_path), recipe)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match=r"broken.yaml: not a YAML recipe: .* in line 1"):
        load_recipe(tmp_path / "broken.yaml")


COMET = {"zero_optimization": {"stage": 2}, "comet": {"enabled": True, "api_key": "my-secret"}}


def test_secrets_are_neither_written_nor_printed(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {"hub_token": "my-secret", "deepspeed": COMET, "data_path": "a.json", "model_name_or_path": str(base)}
    path = write(tmp_path, output_dir="runs/x", **keys)
    recipe = load_recipe(path)
    assert recipe.trainer["hub_token"] == "my-secret"
    assert "hub_token" not in recipe.as_dict()
    assert sorted(recipe.withheld()) == ["deepspeed", "hub_token"]
    assert "my-secret" not in repr(recipe)
    resolved = tmp_path / "resolved.yaml"
    assert main(["train", str(path), "--resolve", str(resolved)]) == 0
    assert "my-secret" not in resolved.read_text()
    assert load_recipe(resolved).trainer["deepspeed"] == {"zero_optimization": {"stage": 2}, "comet": {"enabled": True}}
    assert "hub_token" in caplog.text
    assert main(["train", str(path), "--dry-run", "--deepspeed", "none"]) == 2  # there are no rows
    told = capsys.readouterr()
    assert "parameters" in told.out
    assert "my-secret" not in told.out + told.err + caplog.text


def test_a_misspelt_flag_is_named_without_its_value() -> None:
    with pytest.raises(ConfigError, match=r"unknown flag '--hub_tokn'; did you mean") as caught:
        load_recipe(None, ["--hub_tokn=my-secret"])
    assert "my-secret" not in str(caught.value)


def test_a_broken_file_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("lora_r: 4\nhub_token: [my-secret\n")
    with pytest.raises(ConfigError, match="not a YAML recipe") as caught:
        load_recipe(tmp_path / "broken.yaml")
    assert "my-secret" not in str(caught.value)
