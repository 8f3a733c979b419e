import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llava_mocle.clustering.cluster_model import ClusterModel
from llava_mocle.errors import ClusterModelError
from tests.clustering.encoders import FakeEncoder, question_texts


def fitted(num_clusters=3, seed=0):
    return ClusterModel.fit(question_texts(30), num_clusters, seed=seed, encoder=FakeEncoder(), progress=False)


@pytest.fixture
def folder(tmp_path):
    fitted().save(tmp_path / "clusters")
    return tmp_path / "clusters"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_replaces_only_when_told(folder):
    before = contents(folder)
    with pytest.raises(ClusterModelError, match="--overwrite"):
        fitted(4).save(folder)
    assert contents(folder) == before
    (folder / "assignments.parquet").write_bytes(b"of the old clustering")
    (folder / "notes.txt").write_text("mine")
    fitted(4).save(folder, overwrite=True)
    assert ClusterModel.load(folder).num_clusters == 4
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "assignments.parquet").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["clusters"]


def test_never_replaces_something_else(tmp_path):
    other = tmp_path / "home"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(ClusterModelError, match="no cluster model"):
        fitted().save(other, overwrite=True)
    assert contents(other) == {"thesis.tex": b"years of work"}
    with pytest.raises(ClusterModelError, match="is a file"):
        fitted().save(other / "thesis.tex", overwrite=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    fitted().save(empty)
    assert ClusterModel.load(empty).num_clusters == 3


def test_a_failed_write_leaves_the_old_one(folder, monkeypatch):
    before = contents(folder)
    original = os.rename

    def fail(source, target):
        if str(source).endswith(".tmp"):
            raise OSError("no space left on device")
        original(source, target)

    monkeypatch.setattr("llava_mocle.clustering.cluster_files.os.rename", fail)
    with pytest.raises(OSError, match="no space left"):
        fitted(4).save(folder, overwrite=True)
    monkeypatch.undo()
    assert contents(folder) == before
    assert not [path for path in folder.parent.iterdir() if path.suffix == ".tmp"]


def test_everyone_may_read_it(folder):
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask, path.name
    assert folder.stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("name", ["config.json", "centroids.safetensors", "examples.jsonl"])
@pytest.mark.parametrize("how", ["missing", "torn"])
def test_missing_and_damaged_files(folder, name, how):
    path = folder / name
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ClusterModelError) as error:
        ClusterModel.load(folder)
    assert str(path) in str(error.value)
    assert "llava-mocle cluster" in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "something"}, "kind = 'llava_mocle_cluster_model'"),
        ({"format_version": 9}, "format_version is 9"),
        ({"instruction_rule_version": 2}, "instruction_rule_version is 2"),
        ({"instruction_turns": "last"}, "instruction_turns is 'last'"),
        ({"num_clusters": "3"}, "field 'num_clusters' is '3', expected int"),
        ({"num_clusters": True}, "field 'num_clusters' is True, expected int"),
        ({"num_clusters": 5}, r"has shape \(3, 8\), config.json says \(5, 8\)"),
        ({"dim": 9}, r"config.json says \(3, 9\)"),
        ({"encoder_weight_hash": "other"}, "not the centroids that config.json was written for"),
        ({"surprise": 1}, "unknown field 'surprise'"),
        ({"seed": ...}, "field 'seed' is missing"),
    ],
)
def test_config_that_does_not_fit(folder, change, words):
    values = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
    with pytest.raises(ClusterModelError, match=words) as error:
        ClusterModel.load(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("centroids", np.zeros((3, 8), np.float64), "is float64, expected finite float32"),
        ("centroids", np.full((3, 8), np.nan, np.float32), "finite"),
        ("centroids", np.zeros((3, 8), np.float32), "not the centroids"),
        ("counts", np.zeros(4), "'counts' has shape"),
        ("counts", None, "'counts' is missing"),
        ("probe", None, "'probe' is missing"),
    ],
)
def test_tensors_that_do_not_fit(folder, name, value, words):
    path = folder / "centroids.safetensors"
    tensors = load_file(path) | {name: value}
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path)
    with pytest.raises(ClusterModelError, match=words) as error:
        ClusterModel.load(folder)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cluster", 3),
        ("cluster", None),
        ("text", "\ud83d"),
        ("text", 3),
        ("text", None),
        ("count", "1"),
        ("distance", []),
    ],
)
def test_an_example_that_is_none(folder, field, value):
    path = folder / "examples.jsonl"
    path.write_text(json.dumps({"cluster": 0, "text": "x", "count": 1, "distance": 0.5} | {field: value}) + "\n")
    with pytest.raises(ClusterModelError, match=r"examples\.jsonl, line 1"):
        ClusterModel.load(folder)
