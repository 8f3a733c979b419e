"""A clustering that exists is used without its encoder; a text that is new asks for it, and says where it may be."""

import json
import shutil
from pathlib import Path

import pytest

from llava_mocle.cli.main import main
from llava_mocle.clustering.encoder import SentenceEncoder


@pytest.fixture
def moved(recipe_file, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A recipe whose clusters were made with an encoder that then moved elsewhere: (recipe, the encoder's new folder).

    Nothing of the embeddings is left in the cache.
    """
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", str(tmp_path / "cache"))
    mine = shutil.copytree(encoder, tmp_path / "here/tiny-encoder")
    recipe = recipe_file(
        cluster_model=str(tmp_path / "clusters"), cluster_encoder=str(mine), eval_strategy="steps", eval_steps=2,
        max_steps=2,
    )  # fmt: skip
    assert main(["cluster", "--recipe", str(recipe)]) == 0
    elsewhere = tmp_path / "elsewhere/another_name"
    elsewhere.parent.mkdir()
    shutil.move(mine, elsewhere)
    shutil.rmtree(tmp_path / "cache/embeddings")
    return recipe, elsewhere


def test_what_is_known_needs_no_encoder(moved, tmp_path: Path, capsys, caplog) -> None:
    recipe, _ = moved
    run, clusters = tmp_path / "run", tmp_path / "clusters"
    before = {path.name: path.read_bytes() for path in clusters.iterdir()}
    assert main(["cluster", "--recipe", str(recipe)]) == 0
    assert "already holds this clustering of these rows: reused" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in clusters.iterdir()} == before
    assert main(["cluster", "inspect", str(clusters)]) == 0
    assert main(["train", str(recipe)]) == 0
    assert "cluster_0" in capsys.readouterr().out
    assert sorted(path.name for path in (run / "clusters").iterdir()) == [
        "centroids.safetensors", "config.json", "examples.jsonl", "held_out.parquet",
    ]  # fmt: skip
    shutil.move(clusters, tmp_path / "gone")  # what a run has stands by itself
    assert main(["eval", "--model", str(run), "--recipe", str(recipe), "--output", str(tmp_path / "eval")]) == 0
    results = json.loads((tmp_path / "eval/results.json").read_text())
    assert {name: found["n"] for name, found in results["clusters"].items()} == {"0": 5, "1": 5}
    words = ["generate", "--model", str(run), "--prompt", "How much is 3 and 3?", "--max-new-tokens", "2"]
    assert main(words) == 0
    assert "encoder" not in caplog.text


def test_what_is_new_asks_for_the_encoder(moved, tmp_path: Path, capsys) -> None:
    recipe, elsewhere = moved
    assert main(["train", str(recipe)]) == 0
    words = [
        "generate",
        "--model",
        str(tmp_path / "run"),
        "--prompt",
        "Quite another question",
        "--max-new-tokens",
        "2",
    ]
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    place, digest = tmp_path / "here/tiny-encoder", SentenceEncoder(elsewhere).weight_hash[:16]
    assert f"embedded with this cluster model's encoder, '{place}' (weight hash {digest})" in error
    assert "the clusters of 1 text are not stored (the first is 'Quite another question')" in error
    assert f"Looked for a folder with config.json or modules.json at:\n  {place}\n" in error
    assert "--encoder DIR" in error
    assert main([*words, "--encoder", str(elsewhere)]) == 0
    # One of its name below the assets folder is found by itself, and known by its weights.
    shutil.copytree(elsewhere, tmp_path / "assets/tiny-encoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOCLE_ASSETS", str(tmp_path / "assets"))
        assert main(words) == 0
        (tmp_path / "assets/tiny-encoder/model.safetensors").write_bytes(b"other weights")
        assert main(words) == 2


def test_new_held_out_rows_take_the_encoder_that_the_recipe_names(moved, mix, tmp_path: Path, capsys) -> None:
    recipe, elsewhere = moved
    datasets = []
    for spec in mix:
        rows = Path(spec["eval_data_path"]).read_text().replace("?", ", please?")
        (tmp_path / Path(spec["eval_data_path"]).name).write_text(rows)
        datasets.append(spec | {"eval_data_path": str(tmp_path / Path(spec["eval_data_path"]).name)})
    words = ["train", str(recipe), "--datasets", json.dumps(datasets)]
    assert main(words) == 2
    assert "cluster_encoder" in capsys.readouterr().err
    assert main([*words, "--cluster_encoder", str(elsewhere)]) == 0


def test_a_clustering_of_another_encoder_is_not_taken_unseen(moved, tmp_path: Path, capsys) -> None:
    recipe, elsewhere = moved
    assert main(["cluster", "--recipe", str(recipe), "--encoder", str(tmp_path / "nowhere")]) == 2
    assert "nowhere' was not found" in capsys.readouterr().err
    assert main(["cluster", "--recipe", str(recipe), "--encoder", str(elsewhere)]) == 0
    assert "reused" in capsys.readouterr().out
