"""Whatever a recipe names is looked up before weights are loaded, by a run and by a dry run alike."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from llava_mocle.cli.main import main
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.recipe.shipped import shipped_files
from llava_mocle.training import run
from llava_mocle.training.preflight import look_up

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "scripts" / "recipes").glob("*.yaml"))
ZERO = sorted((ROOT / "zero_configs").glob("*.json"))


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(run, "load_start", load)


def dataset(mix: list[dict], **changes: object) -> list[dict]:
    return [mix[0] | changes, mix[1]]


CHANGES = {
    "rows": (lambda mix: {"datasets": dataset(mix, data_path="none.json")}, "data_path none.json: no such file"),
    "rows are a folder": (lambda mix: {"datasets": dataset(mix, data_path=mix[0]["image_folder"])}, "is no file"),
    "long": (lambda mix: {"datasets": dataset(mix, data_path="x" * 3000)}, "file name too long"),
    "images": (lambda mix: {"datasets": dataset(mix, image_folder="none")}, "image_folder none: no such file"),
    "images are a file": (lambda mix: {"datasets": dataset(mix, image_folder=mix[0]["data_path"])}, "is no folder"),
    "held out": (lambda mix: {"datasets": dataset(mix, eval_data_path="none.json")}, "eval_data_path none.json"),
    "clusters": (lambda mix: {"cluster_model": "nowhere"}, "cluster_model nowhere: no such file"),
    "clusters are rows": (lambda mix: {"cluster_model": mix[0]["image_folder"]}, "config.json: no such file"),
    "no clusters": (lambda mix: {"cluster_model": None}, "cluster_model is not set"),
    "rows of other names": (lambda mix: {"datasets": dataset(mix, name="other")}, "holds no dataset 'other', only"),
    "table is rows": (lambda mix: {"cluster_assignments": mix[0]["data_path"]}, "not readable as Parquet"),
    "table is a folder": (lambda mix: {"cluster_assignments": mix[0]["image_folder"]}, "not readable as Parquet"),
    "table": (lambda mix: {"cluster_assignments": "none.parquet"}, "cluster_assignments none.parquet: no such file"),
    "K": (lambda mix: {"num_clusters": 5}, "num_clusters is 5, but the cluster model .* was made with 2"),
    "turns": (lambda mix: {"instruction_turns": "all"}, "instruction_turns is 'all', but the cluster model"),
    "base": (lambda mix: {"model_name_or_path": "no/such/base"}, "no/such/base"),
    "base of a slip": (lambda mix: {"model_name_or_path": "base"}, "base"),
    "base is an adapter": (lambda mix: {"model_name_or_path": "adapter"}, "is a trained adapter"),
    "projector": (lambda mix: {"pretrain_mm_mlp_adapter": "none.bin"}, "none.bin: no projector there"),
    "tower": (lambda mix: {"vision_tower": "no/such/tower"}, "vision_tower: no/such/tower: no such folder"),
    "resume": (lambda mix: {"resume": "none/checkpoint-1"}, "none/checkpoint-1: no whole checkpoint to resume from"),
    "output is a file": (lambda mix: {"output_dir": mix[0]["data_path"]}, "is a file, expected a folder"),
    "output in a file": (lambda mix: {"output_dir": mix[0]["data_path"] + "/run"}, "is a file, expected a folder"),
    "output too long": (lambda mix: {"output_dir": "y" * 3000}, "file name too long"),
    "no output": (lambda mix: {"output_dir": None}, "output_dir is not set"),
    "zero": (lambda mix: {"deepspeed": "none.json"}, "deepspeed: none.json: no such file"),
    "zero is no JSON": (lambda mix: {"deepspeed": "bad.json"}, "deepspeed: bad.json cannot be read as JSON"),
    "zero differs": (
        lambda mix: {"deepspeed": {"zero_optimization": {"stage": 2}, "gradient_clipping": 7.0}},
        "gradient_clipping=7.0 vs hf max_grad_norm",
    ),
    "no zero": (lambda mix: {"deepspeed": {"gradient_clipping": 1.0}}, "deepspeed.* ZeRO optimization config"),
    "no steps": (lambda mix: {"eval_steps": 2}, "eval_steps is 2, but eval_strategy is no"),
    "target": (lambda mix: {"lora_target_modules": "up_porj"}, "no linear named up_porj"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("words", [["--dry-run"], []], ids=["dry run", "run"])
def test_what_is_missing_is_said_before_weights(
    recipe_file, mix, no_weights, tmp_path, monkeypatch, capsys: pytest.CaptureFixture, name: str, words: list[str]
) -> None:
    if name == "target" and not words:
        pytest.skip("the names of linears are known when the model is built: a dry run does that on the meta device")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    change, message = CHANGES[name]
    assert main(["train", str(recipe_file(**change(mix))), *words]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    line = next(text for text in told.splitlines() if text.startswith("error: "))
    assert re.search(message, told), line
    assert not (tmp_path / "run" / "base").exists()


def test_everything_that_is_missing_is_in_one_list(recipe_file, mix, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    path = recipe_file(datasets=dataset(mix, data_path="a.json", image_folder="b"), cluster_model="c")
    assert main(["train", str(path), "--dry-run"]) == 2
    told = capsys.readouterr()
    assert "parameters  experts" in told.out  # what would be trained is shown all the same
    assert "error: 3 things to mend:" in told.err
    for name in ("a.json", "b", "c"):
        assert f"{name}: no such file or directory (looked for at {tmp_path / name})" in told.err


def test_the_weights_may_be_elsewhere_in_a_dry_run(recipe_file, base, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lmsys/vicuna-7b-v1.5", "runs/stage1/not/there"):
        path = recipe_file(model_name_or_path=name, pretrain_mm_mlp_adapter="stage1/mm_projector.bin")
        assert main(["train", str(path), "--dry-run", "--model_config", str(base / "config.json")]) == 0
        told = capsys.readouterr().out
        assert f"not checked model_name_or_path: {name}: no such folder" in told
        assert "not checked pretrain_mm_mlp_adapter: stage1/mm_projector.bin" in told
    assert look_up(load_recipe(path)).problems  # for a run both are missing


def test_the_cluster_model_at_hand_is_counted(recipe_file, clusters, capsys) -> None:
    path = recipe_file()
    values = yaml.safe_load(path.read_text())
    del values["num_clusters"]
    path.write_text(yaml.safe_dump(values))
    assert main(["train", str(path), "--dry-run"]) == 0
    config = json.loads((clusters / "config.json").read_text())
    sites, experts = 2 * 2, 3  # up_proj and down_proj of two layers
    expected = config["num_clusters"] * config["dim"] + sites * experts * config["dim"]
    assert f"router     {expected:>14,}" in capsys.readouterr().out


def test_a_folder_without_permission(recipe_file, tmp_path, monkeypatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed)
    for output in (closed, closed / "run"):
        recipe = load_recipe(recipe_file(output_dir=str(output)))
        assert "no permission" in str(look_up(recipe).problems[0])


def test_a_base_that_was_joined_before_needs_no_parts(recipe_file, base, tmp_path) -> None:
    path = recipe_file(model_name_or_path="gone/language/model", vision_tower="gone/vision/tower")
    assert len(look_up(load_recipe(path)).problems) == 2
    shutil.copytree(base, tmp_path / "run" / "base")
    (tmp_path / "run" / "base" / "base_made_from.json").write_text("{}")
    assert look_up(load_recipe(path)).problems == []


@pytest.mark.parametrize("zero", [None, *ZERO], ids=lambda path: path.stem if path else "none")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_with_every_zero_configuration(recipe, zero, monkeypatch, capsys, base) -> None:
    """Without mpi4py, and without starting processes; the data is not here, and is listed as missing."""
    monkeypatch.chdir(ROOT)
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    words = ["--deepspeed", str(zero)] if zero else []
    if "playground" in recipe.name:
        words += ["--model_config", str(base / "config.json")]
    assert main(["train", str(recipe), "--dry-run", *words]) in (0, 2)
    told = capsys.readouterr()
    assert "parameters  trainable" in told.out
    assert "deepspeed" not in told.err.partition("error: ")[2]
    assert "Traceback" not in told.err
    assert "MASTER_PORT" not in os.environ


def test_what_ships_is_what_is_tried() -> None:
    shipped = [place for place in shipped_files() if place.count("/") == (2 if place.startswith("scripts") else 1)]
    assert len(shipped) == len(RECIPES) + len(ZERO)


@pytest.mark.parametrize("original", [True, False])
def test_a_model_in_parts_is_looked_up_but_not_counted(recipe_file, base, tmp_path, capsys, original: bool) -> None:
    """A language model to join to a tower, or a folder of the original code: neither has one config.json of all."""
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    config = json.loads((base / "config.json").read_text())["text_config"]
    config |= {"model_type": "llava", "mm_vision_tower": str(base)} if original else {}
    (folder / "config.json").write_text(json.dumps(config))
    path = recipe_file(model_name_or_path=str(folder), vision_tower=None if original else str(base))
    assert main(["train", str(path), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "template    chat (the base's own)" in told
    assert f"not checked parameters: {folder}: is the configuration of a" in told
