"""A run goes on only with the rows and the clustering it began with, whatever their files are called."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava_mocle.clustering import ClusterModel
from llava_mocle.clustering.assign import assign_rows, write_assignments
from llava_mocle.clustering.instruction import InstructionRule, instruction_text
from llava_mocle.data.rows import read_rows
from llava_mocle.errors import ConfigError
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.checkpoints.data_identity import check_data_identity, data_identity
from llava_mocle.training.checkpoints.manifest import MANIFEST_FILE, write_manifest
from llava_mocle.training.run import train


def mixture(digest: str | None) -> SimpleNamespace:
    """One dataset, `a`, whose rows have this digest."""
    rows = SimpleNamespace(digest=digest) if digest else []
    return SimpleNamespace(rows={"a": rows}, specs=[SimpleNamespace(name="a", data_path="a.json")])


def test_identity_is_of_the_contents() -> None:
    clusters = SimpleNamespace(fingerprint="f")
    assert data_identity(mixture("1"), mixture("2"), clusters) == {
        "rows": {"a": "1"},
        "held_out_rows": {"a": "2"},
        "cluster_model": "f",
    }
    assert data_identity(mixture(None), None, None) == {"rows": {}, "held_out_rows": {}, "cluster_model": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": {"a": "3"}}, r"a\.json: the rows of dataset 'a' .*\(digest 3 then, 1 now\)"),
        ({"held_out_rows": {"a": "3"}}, r"a\.json: the held-out rows of dataset 'a'"),
        ({"cluster_model": "g"}, r"k2: this is not the cluster model .*\(fingerprint g then, f now\)"),
        ({"rows": {"b": "3"}}, None),  # another mixture, which the recipes' comparison refuses
        ({"cluster_model": None}, None),
    ],
)
def test_what_differs_is_named(tmp_path: Path, change: dict, message: str | None) -> None:
    train_rows, held_out = mixture("1"), mixture("2")
    now = data_identity(train_rows, held_out, SimpleNamespace(fingerprint="f"))
    write_manifest(tmp_path, **now | change)
    if message is None:
        check_data_identity(tmp_path, now, train_rows, held_out, "k2")
        return
    with pytest.raises(ConfigError, match=message):
        check_data_identity(tmp_path, now, train_rows, held_out, "k2")


@pytest.fixture
def own_mix(mix: list[dict], tmp_path: Path) -> list[dict]:
    """The mix, with row files of its own."""
    specs = []
    for spec in mix:
        paths = {key: shutil.copy(spec[key], tmp_path) for key in ("data_path", "eval_data_path")}
        specs.append(spec | paths)
    return specs


def change_answer(path: str) -> None:
    """Another answer: every instruction, and so the assignment table, stays right."""
    rows = json.loads(Path(path).read_text())
    rows[3]["conversations"][1]["value"] = "something else"
    Path(path).write_text(json.dumps(rows))


def make_again(folder: Path, mix: list[dict], encoder: Path) -> str:
    """Another clustering of the same rows into the same folder; returns its fingerprint."""
    rows = {spec["name"]: json.loads(Path(spec["data_path"]).read_text()) for spec in mix}
    texts = [instruction_text(row, InstructionRule()) for row in rows["pictures"]]
    model = ClusterModel.fit(texts, 2, encoder=encoder, progress=False, num_examples=1)
    shutil.rmtree(folder)
    model.save(folder)
    write_assignments(assign_rows(model, rows, progress=False), folder / "assignments.parquet")
    return model.fingerprint


@pytest.mark.parametrize("changes", [{}, {"adapter": "lora"}, {"stage": "pretrain"}], ids=["mocle", "lora", "pretrain"])
@pytest.mark.parametrize(("key", "what"), [("data_path", "rows"), ("eval_data_path", "held-out rows")])
def test_other_rows_are_refused(
    recipe_file, own_mix: list[dict], tmp_path: Path, changes: dict, key: str, what: str
) -> None:
    recipe = recipe_file(datasets=own_mix, **changes)
    train(load_recipe(recipe, ["--stop_after_steps", "2"]))
    then = read_rows(own_mix[1][key]).digest
    change_answer(own_mix[1][key])
    message = (
        rf"sums(_test)?\.json: the {what} of dataset 'sums' .*checkpoint-2 .*{then[:16]} then, \w+ now.*output_dir"
    )
    with pytest.raises(ConfigError, match=message):
        train(load_recipe(recipe))


def test_another_clustering_is_refused(
    recipe_file, mix: list[dict], clusters: Path, encoder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(clusters, tmp_path / "clusters"))
    recipe = recipe_file(cluster_model=str(folder))
    train(load_recipe(recipe, ["--stop_after_steps", "2"]))
    then = ClusterModel.load(folder).fingerprint
    now = make_again(folder, mix, encoder)
    assert then != now
    with pytest.raises(ConfigError, match=rf"{folder}: .*checkpoint-2 .*{then} then, {now} now\).*output_dir"):
        train(load_recipe(recipe))
    # Checkpoints of early releases have no digests, and are not compared.
    manifest = tmp_path / "run" / "checkpoint-2" / MANIFEST_FILE
    older = json.loads(manifest.read_text())
    for fact in ("rows", "held_out_rows", "cluster_model"):
        del older[fact]
    manifest.write_text(json.dumps(older))
    assert train(load_recipe(recipe)).state.global_step == 4


def test_a_finished_run_too(recipe_file, own_mix: list[dict]) -> None:
    recipe = recipe_file(datasets=own_mix, save_strategy="steps", save_steps=4)
    train(load_recipe(recipe))
    change_answer(own_mix[0]["data_path"])
    with pytest.raises(ConfigError, match="rows of dataset 'pictures'"):
        train(load_recipe(recipe))


def test_a_clustering_that_routes_nothing_may_change(
    recipe_file, mix: list[dict], clusters: Path, encoder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(clusters, tmp_path / "clusters"))
    recipe = recipe_file(cluster_model=str(folder), adapter="dataset")
    train(load_recipe(recipe, ["--stop_after_steps", "2"]))
    make_again(folder, mix, encoder)
    assert train(load_recipe(recipe)).state.global_step == 4
