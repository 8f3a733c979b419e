"""Every key of a recipe and every field of a dataset entry, set to values of every kind: taken, or refused in one line.

A key that is taken is also checked as at the start of a run, so that no library refuses it later in a traceback.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from llava_mocle.cli.main import main
from llava_mocle.data.mixture import DatasetSpec
from llava_mocle.errors import ConfigError
from llava_mocle.recipe import recipe as recipe_module
from llava_mocle.recipe.checks import check_recipe
from llava_mocle.recipe.recipe import Recipe, known_keys, load_recipe

HALF = "half a pair: \ud83d"
VALUES: dict[str, Any] = {
    "null": None, "number": 3, "half": 0.5, "zero": 0, "negative": -1, "text": "odd text", "list": ["a", 1],
    "object": {"a": 1}, "huge": 10**30, "nan": math.nan, "infinite": math.inf, "not Unicode": HALF, "empty": "",
    "yes": True, "no": False, "NUL": "a\0b", "deep": [[[]]], "not Unicode inside": [HALF],
}  # fmt: skip
# What no key takes, whatever it is about; an old key of LLaVA's that does nothing may be given anything.
NEVER = ("huge", "nan", "infinite", "not Unicode", "NUL", "deep", "not Unicode inside")
OF_NO_EFFECT = ("local_rank",)


def start(recipe: Recipe) -> None:
    """What a run does before it looks at the disk."""
    recipe.data.dataset_specs()
    check_recipe(recipe, recipe.training_arguments())


def outcome(monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], words: list[str]) -> str | None:
    """The error of a recipe with these values and flags, which is one line; None if it is taken."""
    monkeypatch.setattr(recipe_module, "read_yaml", lambda path: recipe_module.translate_keys(path, values))
    try:
        start(load_recipe("recipe.yaml", words))
    except ConfigError as error:
        said = str(error)
    else:
        return None
    assert "\n" not in said
    return said


@pytest.mark.parametrize("first", range(8))
def test_every_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, first: int) -> None:
    base = {"data_path": "rows.json", "output_dir": str(tmp_path / "run"), "report_to": "none"}
    for key in known_keys()[first::8]:
        others = {name: value for name, value in base.items() if name != key and key != "datasets"}
        for name, value in VALUES.items():
            said = outcome(monkeypatch, others | {key: value}, [])
            if said is None:
                assert name not in NEVER or key in OF_NO_EFFECT, (key, name)
            else:
                assert key in said or key == "datasets", (key, name, said)
            if not isinstance(value, (dict, list, bool)):
                word = "none" if value is None else str(value)
                said = outcome(monkeypatch, others, [f"--{key}={word}"])
                text_of_a_number = name in ("huge", "nan", "infinite")
                assert said is not None or name not in NEVER or text_of_a_number, (key, name)


@pytest.mark.parametrize("key", DatasetSpec.__dataclass_fields__)
@pytest.mark.parametrize("as_json", [False, True])
def test_every_field_of_a_dataset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str, as_json: bool) -> None:
    base = {"name": "a", "data_path": "a.json", "image_folder": "b", "repeat": 2, "eval_data_path": "c.json"}
    optional = {"image_folder": {"null", "empty", "text"}, "eval_data_path": {"null", "empty", "text"}}
    if key == "weight":
        del base["repeat"]
    taken = {"name": {"text"}, "data_path": {"text"}, "repeat": {"null", "number"}} | optional
    taken["weight"] = {"null", "number", "half"}
    for name, value in [*VALUES.items(), ("missing", None)]:
        entry = base | {key: value}
        if name == "missing":
            del entry[key]
        if as_json:
            said = outcome(monkeypatch, {"max_steps": 5}, [f"--datasets={json.dumps([entry])}"])
        else:
            said = outcome(monkeypatch, {"max_steps": 5, "datasets": [entry]}, [])
        expected = (
            key in ("image_folder", "eval_data_path", "repeat", "weight") if name == "missing" else name in taken[key]
        )
        assert (said is None) == expected, (key, name, said)
        assert said is None or "dataset" in said


@pytest.mark.parametrize("entry", [None, 3, "a", [], ["name", "a"], HALF])
def test_an_entry_that_is_none(monkeypatch: pytest.MonkeyPatch, entry: object) -> None:
    assert "datasets" in str(outcome(monkeypatch, {"datasets": [entry]}, []))


@pytest.mark.parametrize(
    "name", ["a/b", "a\\b", "../a", ".a", "", " ", " a", "a\n", "a\0", "x" * 300, HALF, 3, "é" * 150]
)
def test_a_dataset_name_that_no_file_can_have(monkeypatch: pytest.MonkeyPatch, name: object) -> None:
    datasets = [{"name": name, "data_path": "a.json"}]
    assert outcome(monkeypatch, {"datasets": datasets}, []) is not None


@pytest.mark.parametrize("name", ["my data", "données", "数学", "v1.2-b_c", "a+b (2)"])
def test_a_dataset_name_that_a_file_can_have(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert outcome(monkeypatch, {"datasets": [{"name": name, "data_path": "a.json"}]}, []) is None


@pytest.mark.parametrize(
    "text",
    [
        "seed: -1", "seed: 4294967296", "lora_r: .inf", "lora_r: 1e3", "learning_rate: .nan", 'run_name: "\\ud83d"',
        "datasets: [{name: a/b, data_path: c}]", "output_dir: {a: 1}", "num_clusters: 0", "version: foo",
        "- a list", "3", "lora_r: [", "? [a]\n: 1", "1: 2", "lora_r: !!python/name:os.system ''",
    ],
)  # fmt: skip
def test_a_file_with_it_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture, text: str) -> None:
    """Through the command, from a file; nothing is written."""
    path, out = tmp_path / "recipe.yaml", tmp_path / "out.yaml"
    path.write_text(text + "\n")
    assert main(["train", str(path), "--resolve", str(out)]) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ")
    assert "Traceback" not in told
    assert not out.exists()


@pytest.mark.parametrize("value", [["my-secret"], "my-secret \ud83d", {"my-secret": 1}])
def test_no_message_tells_a_secret(monkeypatch: pytest.MonkeyPatch, value: object) -> None:
    said = outcome(monkeypatch, {"hub_token": value}, [])
    assert said is not None
    assert "hub_token" in said
    assert "my-secret" not in said
