"""Every run of a comparison with the recipe that it trains."""

from pathlib import Path

import pytest

from llava_mocle.errors import ConfigError
from llava_mocle.experiment.design import read_design
from llava_mocle.experiment.grid import Grid, Run
from tests.experiment.experiments import write_design

# The rows of the tiny mix: 25 pictures once, and 24 sums twice.
PICTURES = 25 / 73


def runs(tmp_path: Path, mix, recipe: dict | None = None, **keys) -> dict[str, Run]:
    grid = Grid(read_design(write_design(tmp_path, mix, recipe, **keys)))
    return {run.name: run for run in grid.runs(grid.search() + grid.entries(), {}).values()}


def test_what_runs_share_and_where_they_differ(tmp_path: Path, mix) -> None:
    found = runs(tmp_path, mix, seeds={"default": 1, "mocle": 2})
    assert list(found) == [
        *("single_domain/seed0-pictures", "single_domain/seed0-sums", "lora_activated/seed0"),
        *("mocle/seed0", "mocle/seed1"),
    ]
    keys = ("adapter", "lora_r", "lora_alpha", "max_steps", "seed", "learning_rate", "num_experts")
    values = {name: tuple(run.recipe.get(key) for key in keys) for name, run in found.items()}
    assert values == {
        "single_domain/seed0-pictures": ("lora", 8, 16, round(10 * PICTURES), 0, 0.01, None),
        "single_domain/seed0-sums": ("lora", 8, 16, round(10 * (1 - PICTURES)), 0, 0.01, None),
        "lora_activated/seed0": ("lora", 8, 16, 10, 0, 0.01, None),
        "mocle/seed0": ("mocle", 4, 8, 10, 0, 0.01, 3),
        "mocle/seed1": ("mocle", 4, 8, 10, 1, 0.01, 3),
    }
    assert [spec.name for spec in found["single_domain/seed0-sums"].datasets] == ["sums"]
    assert found["single_domain/seed0-sums"].recipe["datasets"] == [mix[1]]
    assert found["mocle/seed0"].recipe["datasets"] == list(mix)
    assert [run.clusters for run in found.values()] == [None, None, None, "k2", "k2"]
    assert {run.splits for run in found.values()} == {("validation",)}


def test_single_domain_runs_of_all_steps_and_of_epochs(tmp_path: Path, mix) -> None:
    found = runs(tmp_path, mix, methods=["single_domain"], single_domain_steps="all")
    assert {run.recipe["max_steps"] for run in found.values()} == {10}
    epochs = {"max_steps": -1, "num_train_epochs": 2}
    found = runs(tmp_path, mix, epochs, methods=["single_domain"])
    assert {(run.recipe["max_steps"], run.recipe["num_train_epochs"]) for run in found.values()} == {(-1, 2)}
    found = runs(tmp_path, mix, {"max_steps": 100, "warmup_steps": 10}, methods=["single_domain"])
    assert [run.recipe["warmup_steps"] for run in found.values()] == [3, 7]


def test_equal_recipes_are_one_run(tmp_path: Path, mix) -> None:
    """Under equal activated parameters the three LoRAs are the same; a value of an ablation is MoCLE itself."""
    loras = ["lora_r", "lora_activated", "lora_total"]
    assert list(runs(tmp_path, mix, methods=loras, fairness="activated")) == ["lora_r/seed0"]
    found = runs(tmp_path, mix, methods=["mocle"], ablations={"K": {"num_clusters": [2, 5]}}, ablation_seeds=2)
    assert list(found) == ["mocle/seed0", "K=5/seed0", "K=2/seed1", "K=5/seed1"]
    assert [run.clusters for run in found.values()] == ["k2", "k5", "k2", "k5"]


def test_keys_of_another_kind_of_adapter_are_left_out(tmp_path: Path, mix) -> None:
    """Training refuses a key that would do nothing; a recipe of MoCLE may have it, and one of the token router too."""
    methods = ["mocle", "token", "lora_activated"]
    found = runs(tmp_path, mix, {"gate_mode": "released"}, methods=methods)
    assert [run.recipe.get("gate_mode") for run in found.values()] == ["released", None, None]
    found = runs(tmp_path, mix, {"adapter": "token", "balance_loss_weight": 0.01}, methods=methods)
    assert [run.recipe.get("balance_loss_weight") for run in found.values()] == [None, 0.01, None]


def test_an_ablation_of_the_rank_keeps_the_scaling(tmp_path: Path, mix) -> None:
    found = runs(tmp_path, mix, methods=["mocle"], ablations={"rank": {"lora_r": [2, 16]}}, ablation_seeds=1)
    ranks = {name: (run.recipe["lora_r"], run.recipe["lora_alpha"]) for name, run in found.items()}
    assert ranks == {"mocle/seed0": (4, 8), "rank=2/seed0": (2, 4), "rank=16/seed0": (16, 32)}


def test_clusters_of_another_kind_have_a_folder_of_their_own(tmp_path: Path, mix) -> None:
    ablations = {"turns": {"instruction_turns": ["first", "all"]}}
    found = runs(tmp_path, mix, methods=["mocle"], ablations=ablations, ablation_seeds=1)
    assert [run.clusters for run in found.values()] == ["k2", "k2_instruction_turns-all"]


def test_the_search(tmp_path: Path, mix) -> None:
    test = {spec["name"]: spec["eval_data_path"] for spec in mix}
    design = write_design(
        tmp_path, mix, learning_rates=[0.1, 0.2], seeds=2, methods=["single_domain", "mocle"], test=test
    )
    grid = Grid(read_design(design))
    searched = grid.runs(grid.search(), {})
    assert [run.name for run in searched.values()] == [
        *(f"single_domain/seed0-{domain}-lr{rate}" for rate in (0.1, 0.2) for domain in ("pictures", "sums")),
        *(f"mocle/seed0-lr{rate}" for rate in (0.1, 0.2)),
    ]
    assert {run.splits for run in searched.values()} == {("validation",)}  # test rows choose nothing
    reported = grid.runs(grid.entries(), {"single_domain": 0.1, "mocle": 0.2})
    assert [(run.name, run.recipe["learning_rate"]) for run in reported.values()] == [
        *((f"single_domain/seed0-{domain}-lr0.1", 0.1) for domain in ("pictures", "sums")),
        ("mocle/seed0-lr0.2", 0.2),
        *((f"single_domain/seed1-{domain}", 0.1) for domain in ("pictures", "sums")),
        ("mocle/seed1", 0.2),
    ]
    assert {run.splits for run in reported.values()} == {("validation", "test")}


def test_one_rate_is_no_search(tmp_path: Path, mix) -> None:
    found = runs(tmp_path, mix, methods=["mocle"], learning_rates=[0.5])
    assert [(run.name, run.recipe["learning_rate"]) for run in found.values()] == [("mocle/seed0", 0.5)]


@pytest.mark.parametrize(
    ("recipe", "keys", "message"),
    [
        ({}, {"domains": ["pictures", "birds"]}, "domains names 'birds', which is no dataset of .*recipe.yaml"),
        ({}, {"domains": ["pictures"]}, "a comparison needs two domains or more"),
        ({}, {"test": {"pictures": "x.json"}}, "test has no rows of sums"),
        ({}, {"held_out": {"birds": "x.json"}}, "held_out names 'birds'; the domains are pictures, sums"),
        ({"stage": "pretrain"}, {}, "stage is 'pretrain'"),
        (
            {"lora_r": 3, "lora_alpha": 5},
            {"fairness": "total", "methods": ["cluster"]},  # 3 x 4 / 3 experts
            "at rank 4, which another method has, the same scaling would need lora_alpha 6.66667",
        ),
        ({}, {"methods": {"mine": {"adapter": "moe"}}}, "method mine: .*adapter is 'moe', expected one of"),
        (
            {},
            {"methods": {"mine": {"adapter": "lora", "gate_bias": True}}},
            "method mine: gate_bias is True, but adapter",
        ),
        ({}, {"methods": {"mine": {"num_expert": 4}}}, "method mine: .*unknown key 'num_expert'"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, mix, recipe: dict, keys: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        runs(tmp_path, mix, recipe, **keys)


def test_a_domain_without_validation_rows(tmp_path: Path, mix) -> None:
    bare = [{key: value for key, value in spec.items() if key != "eval_data_path"} for spec in mix]
    with pytest.raises(
        ConfigError, match="dataset 'pictures' has no eval_data_path; every domain needs validation rows"
    ):
        runs(tmp_path, bare)
