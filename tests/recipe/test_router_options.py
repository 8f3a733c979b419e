"""Keys about the router that depend on other keys: what is refused, and the groups of datasets."""

from pathlib import Path

import pytest
import yaml

from llava_mocle.adapter.options import LEARNED_OPTIONS, LEARNED_ROUTERS
from llava_mocle.errors import ConfigError
from llava_mocle.recipe.comparison import differences
from llava_mocle.recipe.keys import ADAPTERS
from llava_mocle.recipe.recipe import Recipe, load_recipe, recipe_text
from llava_mocle.recipe.router_options import check_router_options, group_ids
from llava_mocle.recipe.trainer_keys import policies, unused_keys

NAMES = ["llava", "rad", "vqa", "slake"]


def recipe(*words: str) -> Recipe:
    datasets = ", ".join(f'{{"name": "{name}", "data_path": "{name}.json"}}' for name in NAMES)
    return load_recipe(None, ["--datasets", f"[{datasets}]", *words])


def test_groups_count_in_the_order_of_the_datasets() -> None:
    for groups in (
        {"medical": ["slake", "rad"], "general": ["vqa", "llava"]},
        {"general": ["llava", "vqa"], "medical": ["rad", "slake"]},
        '{"b": ["slake", "rad"], "a": ["llava", "vqa"]}',
    ):
        assert group_ids(groups, NAMES) == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"a": ["llava", "rad", "vqa"]}, "dataset 'slake' is in no group; put it into one of a"),
        ({"a": ["llava", "rad", "vqa"], "b": ["slake", "rad"]}, "'rad' is in group 'a' and in 'b'"),
        ({"a": ["llava", "rad", "vqa", "slake", "path"]}, "'a' holds 'path'.*datasets are llava, rad, vqa, slake"),
        ({"a": ["llava", "rad", "vqa", "slake"], "b": []}, r"group 'b' is \[\]"),
        ({"a": "llava"}, "group 'a' is 'llava'"),
        ({"a": [1]}, r"group 'a' is \[1\]"),
        (["llava"], r"dataset_groups is \['llava'\], expected the name of each group"),
        ({}, "in no group"),
    ],
)
def test_groups_that_do_not_fit(groups, words) -> None:
    with pytest.raises(ConfigError, match=words):
        group_ids(groups, NAMES)


def test_as_a_flag_and_in_a_file(tmp_path) -> None:
    groups = '{"a": ["llava", "vqa"], "b": ["rad", "slake"]}'
    made = recipe("--adapter", "dataset", "--dataset_groups", groups)
    check_router_options(made)
    (tmp_path / "recipe.yaml").write_text(recipe_text(made))
    again = load_recipe(tmp_path / "recipe.yaml")
    assert again.adapter.dataset_groups == made.adapter.dataset_groups == {"a": ["llava", "vqa"], "b": ["rad", "slake"]}
    assert load_recipe(tmp_path / "recipe.yaml", ["--dataset_groups", "none"]).adapter.dataset_groups is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ["--dataset_groups", '{"a": ["llava", "vqa", "rad", "slake"]}'],
            "adapter 'mocle' has no such option.*--dataset_groups none",
        ),
        (["--adapter", "dataset", "--dataset_groups", '{"a": ["llava"]}'], "'rad' is in no group"),
        (
            ["--adapter", "lora", "--gates", "fixed"],
            "gates is 'fixed', but adapter 'lora' has no such option.*--gates learned",
        ),
        (["--adapter", "lora", "--gate_init", "balanced"], "gate_init is 'balanced', but adapter 'lora'"),
        (["--adapter", "lora", "--train_cluster_embedding", "false"], "train_cluster_embedding is False"),
        (["--adapter", "lora", "--num_experts", "8"], "num_experts is 8, but adapter 'lora'.*--num_experts 4"),
        (["--adapter", "lora", "--gate_learning_rate", "0.1"], "gate_learning_rate is 0.1.*--gate_learning_rate none"),
        (
            ["--adapter", "token", "--gate_mode", "released"],
            "gate_mode is 'released'.*adapter to mocle or cluster or",
        ),
        (["--adapter", "dataset", "--gate_init", "balanced"], "set adapter to mocle or cluster$"),
    ],
)
def test_what_would_do_nothing_is_refused(flags, words) -> None:
    with pytest.raises(ConfigError, match=words):
        check_router_options(recipe(*flags))
    check_router_options(recipe("--adapter", "lora"))


# What each kind of adapter has no use for, of a recipe that says all of this.
SAID = {
    "num_experts": 8, "gate_noise_std": 0.1, "gate_learning_rate": 0.005, "gate_mode": "released", "gates": "learned",
    "gate_init": "balanced", "train_cluster_embedding": False, "lora_r": 8,
}  # fmt: skip
UNUSED = {
    "lora": [
        "gate_init",
        "gate_learning_rate",
        "gate_mode",
        "gate_noise_std",
        "num_experts",
        "train_cluster_embedding",
    ],
    "token": ["gate_init", "gate_mode", "train_cluster_embedding"],
    "dataset": ["gate_init"],
    "cluster": [],
}


def written(folder, **more) -> Path:
    path = folder / "recipe.yaml"
    datasets = [{"name": name, "data_path": f"{name}.json"} for name in NAMES]
    path.write_text(yaml.safe_dump({"datasets": datasets, **SAID, **more}))
    return path


@pytest.mark.parametrize("adapter", UNUSED)
def test_a_flag_that_changes_the_adapter_leaves_out_what_that_has_no_use_for(tmp_path, caplog, adapter) -> None:
    path = written(tmp_path)
    made = load_recipe(path, ["--adapter", adapter])
    check_router_options(made)
    lines = [record.getMessage() for record in caplog.records if "makes no use of" in record.getMessage()]
    named = f"{path}: left out, as --adapter {adapter} makes no use of it: {', '.join(UNUSED[adapter])}"
    assert lines == ([named] if UNUSED[adapter] else [])
    assert made.adapter.lora_r == 8
    values, usual = made.as_dict(), recipe().as_dict()
    for key, value in SAID.items():
        assert values[key] == (usual[key] if key in UNUSED[adapter] else value)
        assert (key in made.given) == (key not in unused_keys(adapter))


def test_what_a_flag_or_a_recipe_of_that_adapter_says_stays_an_error(tmp_path) -> None:
    with pytest.raises(ConfigError, match="num_experts is 2, but adapter 'lora'"):
        check_router_options(load_recipe(written(tmp_path), ["--adapter", "lora", "--num_experts", "2"]))
    path = written(tmp_path, adapter="lora")
    for flags in ([], ["--adapter", "lora"]):
        with pytest.raises(ConfigError, match="gate_init is 'balanced', but adapter 'lora'"):
            check_router_options(load_recipe(path, flags))
    # The other way round there is nothing to leave out.
    assert load_recipe(path, ["--adapter", "mocle"]).adapter.num_experts == 8


def test_keys_and_the_adapters_that_have_them() -> None:
    assert {key for key, policy in policies().items() if policy.adapters == LEARNED_ROUTERS} == set(LEARNED_OPTIONS)
    assert unused_keys("mocle") == {*LEARNED_OPTIONS, "dataset_groups"}
    assert set().union(*(policy.adapters or () for policy in policies().values())) <= set(ADAPTERS)


def test_keys_without_a_use_do_not_change_a_run() -> None:
    before, now = (recipe("--adapter", adapter).as_dict() for adapter in ("lora", "lora"))
    assert differences(before | {"num_experts": 8, "gate_noise_std": 0.1}, now) == []
    assert differences(before | {"lora_r": 8}, now) == ["lora_r: 8 then, 128 now"]
    assert differences(recipe().as_dict() | {"num_experts": 8}, recipe().as_dict()) == ["num_experts: 8 then, 4 now"]
