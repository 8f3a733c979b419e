"""The YAML of a comparison: what it may say, and how a mistake in it is told."""

from pathlib import Path

import pytest
import yaml

from llava_mocle.errors import ConfigError
from llava_mocle.experiment.design import Design, read_design
from llava_mocle.experiment.methods import STANDARD


def read(tmp_path: Path, **keys) -> Design:
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump({"recipe": "recipe.yaml", "output_dir": "out"} | keys, sort_keys=False))
    return read_design(path)


def test_defaults(tmp_path: Path) -> None:
    design = read(tmp_path)
    assert [method.name for method in design.standard_and_own()] == list(STANDARD)
    assert (design.seeds_of("mocle"), design.fairness, design.learning_rates) == ([0, 1, 2], "exposure", None)


def test_seeds(tmp_path: Path) -> None:
    design = read(tmp_path, seeds={"default": 2, "mocle": [7, 9], "token": 1})
    assert [design.seeds_of(name) for name in ("mocle", "token", "dataset")] == [[7, 9], [0], [0, 1]]
    assert read(tmp_path, seeds=[3, 1]).seeds_of("mocle") == [3, 1]


def test_own_methods(tmp_path: Path) -> None:
    design = read(tmp_path, methods={"mocle": None, "many": {"adapter": "mocle", "num_experts": 8}})
    standard, own = design.standard_and_own()
    assert standard is STANDARD["mocle"]
    assert (own.name, own.keys, own.rank, own.per_domain) == (
        "many",
        {"adapter": "mocle", "num_experts": 8},
        None,
        False,
    )


def test_ablations(tmp_path: Path) -> None:
    universal = {"with": {"adapter": "mocle"}, "without": {"adapter": "cluster"}}
    design = read(tmp_path, ablations={"tau": {"gate_temperature": [0.05, 0.1]}, "universal": universal})
    assert design.variants_of("tau") == {"0.05": {"gate_temperature": 0.05}, "0.1": {"gate_temperature": 0.1}}
    assert design.variants_of("universal") == universal


def test_rates_are_numbers(tmp_path: Path) -> None:
    assert read(tmp_path, learning_rates=["1e-4", 0.1]).learning_rates == [1e-4, 0.1]  # YAML reads 1e-4 as text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seed": 3}, "unknown key 'seed'; did you mean 'seeds'?"),
        ({"recipe": None}, "recipe is None, expected text"),
        ({"output_dir": ""}, "output_dir is missing"),
        ({"seeds": "three"}, "seeds is 'three', expected a whole number or a list or key: value lines"),
        ({"seeds": 0}, "seeds is 0, expected a number from 1, or a list"),
        ({"seeds": [1, 1]}, "seeds is .1, 1., expected a number from 1, or a list of different"),
        ({"seeds": {"mcole": 3}}, "seeds names 'mcole', which is not among the methods"),
        ({"methods": []}, "methods is empty"),
        ({"methods": ["lora"]}, "methods: 'lora' is no standard method; those are single_domain"),
        ({"methods": {"mocle": {"lora_r": 3}}}, "'mocle' is a standard method; give one with other keys another name"),
        ({"methods": {"a/b": {"lora_r": 3}}}, "the name 'a/b' holds '/'"),
        ({"methods": {"mine": 3}}, "mine is 3, expected recipe keys"),
        ({"fairness": "equal"}, "fairness is 'equal', expected one of exposure, activated, total"),
        ({"eval": {"batch_size": 0}}, "eval: batch_size is 0, expected a whole number from 1"),
        ({"eval": {"batch": 4}}, "eval: unknown key 'batch'; did you mean 'batch_size'?"),
        ({"learning_rates": ["fast"]}, "learning_rates is .'fast'., expected a list of different numbers above 0"),
        ({"learning_rates": [0.1, 0.1]}, "expected a list of different numbers"),
        ({"ablations": {"K": {"num_clusters": [1], "lora_r": [2]}}}, "expected {key: .values.} with one key"),
        ({"ablations": {"K": {"num_clusters": 4}}}, "ablations: K is .* expected"),
        ({"ablations": {"U": {True: {"adapter": "mocle"}}}}, "a label is true or false to YAML.*quote it"),
        (
            {"ablations": {"K": {"num_clusters": [4]}}, "methods": ["token"]},
            "ablations change mocle, which is not among",
        ),
        ({"ablation_seeds": 0}, "ablation_seeds is 0, expected a number from 1"),
    ],
)
def test_mistakes(tmp_path: Path, keys: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        read(tmp_path, **keys)
    assert "compare.yaml: " in str(error.value)


def test_no_file_and_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: no such file"):
        read_design(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match=r"list.yaml: found list, expected"):
        read_design(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"broken.yaml: not a YAML file"):
        read_design(tmp_path / "broken.yaml")
