import json

import pyarrow.parquet as pq
import pytest

from llava_mocle.cli.main import main
from llava_mocle.clustering.cluster_model import ClusterModel
from llava_mocle.clustering.encoder import SentenceEncoder
from tests.clustering.encoders import make_tiny_encoder, question_texts, record_devices


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def write_rows(path, texts):
    rows = [
        {"id": f"{path.stem}-{i}", "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "ok"}]}
        for i, text in enumerate(texts)
    ]
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", str(tmp_path / "cache"))
    texts = question_texts(24)
    return [write_rows(tmp_path / "shapes.json", texts[:16] * 3), write_rows(tmp_path / "scans.json", texts[16:])]


@pytest.fixture
def no_model(monkeypatch):
    """Call it, and from then on loading the encoder's model is a failure."""

    def forbid():
        def refuse(*args):
            raise AssertionError("the encoder's model was loaded")

        monkeypatch.setattr(SentenceEncoder, "_load", refuse)

    return forbid


def cluster(*words) -> int:
    return main(["cluster", *map(str, words)])


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--num-clusters", 0, "num_clusters is 0, expected a whole number from 1"),
        ("--num-clusters", 10**30, "num_clusters is 1000"),
        ("--seed", -1, "cluster_seed is -1, expected a whole number from 0 to 4294967295"),
        ("--n-init", 0, "cluster_n_init is 0"),
    ],
)
def test_a_number_that_no_recipe_takes_is_refused_as_a_flag(files, encoder, tmp_path, capsys, flag, value, message):
    assert cluster("--rows", *files, "--encoder", encoder, "--output", tmp_path / "out", flag, value) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rows_then_again_then_inspect(files, encoder, tmp_path, capsys, no_model):
    output = tmp_path / "clusters"
    command = ("--rows", *files, "--num-clusters", 3, "--encoder", encoder, "--output", output)
    assert cluster(*command) == 0
    first = capsys.readouterr().out
    assert "56 rows of 2 datasets, 24 distinct instructions" in first
    assert "shapes" in first
    assert "instructions nearest each centre" in first
    assert sorted(path.name for path in output.iterdir()) == [
        "assignments.parquet",
        "centroids.safetensors",
        "config.json",
        "examples.jsonl",
    ]
    model = ClusterModel.load(output)
    assert model.num_clusters == 3
    assert model.counts.sum() == 56
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    no_model()
    assert cluster(*command) == 0
    assert "already holds this clustering of these rows: reused" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert cluster("inspect", output, "--examples", 1) == 0
    inspected = capsys.readouterr().out
    assert f"fingerprint {model.fingerprint}" in inspected
    assert model.nearest_examples(2)[0].text.split()[0] in inspected
    # Another K takes every embedding from the cache.
    assert cluster(*command[:-1], tmp_path / "other", "--num-clusters", 5) == 0


def test_a_lost_table_is_written_again(files, encoder, tmp_path, capsys):
    output = tmp_path / "clusters"
    command = ("--rows", *files, "--num-clusters", 3, "--encoder", encoder, "--output", output)
    assert cluster(*command) == 0
    before = pq.read_table(output / "assignments.parquet")
    (output / "assignments.parquet").unlink()
    assert cluster("inspect", output) == 0
    assert "so no cluster x dataset table" in " ".join(capsys.readouterr().out.split())
    assert cluster(*command) == 0
    assert pq.read_table(output / "assignments.parquet").equals(before)


def test_nothing_is_overwritten_unasked(files, encoder, tmp_path, capsys, no_model):
    output = tmp_path / "clusters"
    command = ["--rows", *files, "--encoder", encoder, "--output", output, "--num-clusters"]
    assert cluster(*command, 3) == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert cluster(*command, 4) == 2
    assert cluster(*command, 25, "--overwrite") == 2
    error = capsys.readouterr().err
    assert "--overwrite" in error
    assert "num_clusters is 25, but there are only 24 distinct instructions" in error
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert cluster(*command, 4, "--overwrite") == 0
    assert ClusterModel.load(output).num_clusters == 4


@pytest.mark.parametrize("field", ["id", "route_text", "value"])
def test_text_that_utf8_cannot_hold_is_told_before_the_encoder_is_loaded(
    field, files, encoder, tmp_path, capsys, no_model
):
    rows = json.loads(files[0].read_text())
    (rows[3]["conversations"][0] if field == "value" else rows[3])[field] = "half \ud83d"
    files[0].write_text(json.dumps(rows))
    no_model()
    assert cluster("--rows", *files, "--num-clusters", 3, "--encoder", encoder, "--output", tmp_path / "clusters") == 2
    said = capsys.readouterr().err
    assert f"{files[0]}: row 3 (id" in said
    assert f"{field}: found half a surrogate pair (U+D83D) at character 5" in said
    assert not (tmp_path / "clusters").exists()


def write_recipe(path, files, encoder, **keys):
    values = {
        "datasets": [
            {"name": "geometry", "data_path": str(files[0]), "image_folder": "", "repeat": 2},
            {"name": "medical", "data_path": str(files[1]), "image_folder": "", "repeat": 9},
        ],
        "num_clusters": 3,
        "cluster_encoder": str(encoder),
        **keys,
    }
    path.write_text(json.dumps(values))
    return path


def test_rows_weigh_as_often_as_training_meets_them(files, tmp_path, monkeypatch):
    from llava_mocle.cli import cluster as command

    calls = []
    monkeypatch.setattr(command, "_fit", lambda *call, **_: calls.append(call))
    monkeypatch.setattr("llava_mocle.cli.cluster_view.show", lambda *_: None)
    numbers = [len(json.loads(path.read_text())) for path in files]
    for weights in ({"repeat": 2}, {"repeat": 9}), ({"weight": 3}, {"weight": 1}):
        datasets = [
            {"name": f"d{place}", "data_path": str(path)} | weight
            for place, (path, weight) in enumerate(zip(files, weights, strict=True))
        ]
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(json.dumps({"datasets": datasets, "max_steps": 5}))
        assert cluster("--recipe", recipe, "--output", tmp_path / "out") == 0
    assert list(calls[0][0].rates.values()) == [2, 9]
    # Of as many samples as there are rows, three in four are of the first.
    total = sum(numbers)
    assert list(calls[1][0].rates.values()) == pytest.approx([0.75 * total / numbers[0], 0.25 * total / numbers[1]])


def test_the_defaults_are_the_recipes(files, tmp_path, monkeypatch):
    from llava_mocle.cli import cluster as command
    from llava_mocle.recipe.keys import ClusterArguments

    calls = []
    monkeypatch.setattr(command, "_fit", lambda *call, **_: calls.append(call))
    monkeypatch.setattr("llava_mocle.cli.cluster_view.show", lambda *_: None)
    assert cluster("--rows", *files, "--output", tmp_path / "rows") == 0
    recipe = tmp_path / "recipe.yaml"
    dataset = {"name": "shapes", "data_path": str(files[0]), "image_folder": ""}
    recipe.write_text(json.dumps({"datasets": [dataset]}))
    assert cluster("--recipe", recipe, "--output", tmp_path / "recipe") == 0
    for (_, settings, output, assignments, cache_dir), place in zip(calls, ("rows", "recipe"), strict=True):
        assert settings == ClusterArguments(cluster_model=str(tmp_path / place))
        assert cache_dir == tmp_path / "cache" / "embeddings"
        assert assignments == output / "assignments.parquet"


def test_recipe(files, encoder, tmp_path, capsys):
    output = tmp_path / "clusters"
    recipe = write_recipe(tmp_path / "recipe.yaml", files, encoder, cluster_model=str(output), cluster_seed=4)
    assert cluster("--recipe", recipe) == 0
    assert "geometry" in capsys.readouterr().out
    model = ClusterModel.load(output)
    assert model.counts.sum() == 2 * 48 + 9 * 8
    assert (model.config.num_clusters, model.config.seed) == (3, 4)
    assert pq.read_table(output / "assignments.parquet").num_rows == 56
    assert cluster("--recipe", recipe, "--num-clusters", 4, "--output", tmp_path / "k4") == 0
    assert ClusterModel.load(tmp_path / "k4").config.num_clusters == 4


def test_recipe_that_keeps_its_table_elsewhere(files, encoder, tmp_path):
    table = tmp_path / "tables" / "mine.parquet"
    keys = {"cluster_model": str(tmp_path / "clusters"), "cluster_assignments": str(table)}
    recipe = write_recipe(tmp_path / "recipe.yaml", files, encoder, **keys)
    assert cluster("--recipe", recipe) == 0
    assert pq.read_table(table).num_rows == 56
    assert not (tmp_path / "clusters" / "assignments.parquet").exists()


def test_bad_words(files, encoder, tmp_path, capsys):
    recipe = write_recipe(tmp_path / "recipe.yaml", files, encoder)
    assert cluster() == 2
    assert cluster("--recipe", recipe) == 2
    assert cluster("--recipe", recipe, "--rows", files[0]) == 2
    assert cluster("--rows", files[0]) == 2
    (tmp_path / "sub").mkdir()
    assert cluster("--rows", files[0], write_rows(tmp_path / "sub" / "shapes.json", ["x"]), "--output", "o") == 2
    assert cluster("inspect", tmp_path / "nothing") == 2
    error = capsys.readouterr().err
    for words in (
        "nothing to cluster",
        "cluster_model",
        "drop one",
        "give --output",
        "'shapes'",
        "nothing/config.json",
    ):
        assert words in error
    with pytest.raises(SystemExit):
        cluster("inspect", "--help")
    assert "usage: llava-mocle cluster inspect" in capsys.readouterr().out


def test_the_encoder_runs_where_the_flag_says(files, encoder, tmp_path, monkeypatch, capsys):
    """In the first run, and in one that finds the clusters and assigns the rows again."""
    asked = record_devices(monkeypatch)
    command = ("--rows", *files, "--num-clusters", 3, "--encoder", encoder, "--output", tmp_path / "k3")
    assert cluster(*command, "--device", "cpu") == 0
    (tmp_path / "k3" / "assignments.parquet").unlink()
    assert cluster(*command, "--device", "cpu") == 0
    assert set(asked) == {"cpu"}
    assert cluster(*command, "--device", "gpu:zero") == 2
    assert "device 'gpu:zero' cannot be used" in capsys.readouterr().err
