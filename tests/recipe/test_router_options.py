"""Keys about the router that depend on other keys: what is refused, and the groups of datasets."""

import pytest

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.recipe import Recipe, load_recipe, recipe_text
from llava_mocle.recipe.router_options import check_router_options, group_ids

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
    ],
)
def test_what_would_do_nothing_is_refused(flags, words) -> None:
    with pytest.raises(ConfigError, match=words):
        check_router_options(recipe(*flags))
    check_router_options(recipe("--adapter", "lora"))
