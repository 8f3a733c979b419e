"""`llava-mocle cluster sweep` on a tiny encoder."""

import csv
import json

import pytest

from llava_mocle.cli.main import main
from tests.clustering.encoders import make_tiny_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def write_rows(path):
    texts = [f"Question: What is number {place}? Short answer:" for place in range(12)]
    texts += [f"Tell a story of {place} bears." for place in range(6)]
    rows = [{"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "ok"}]} for text in texts]
    path.write_text(json.dumps(rows))
    return path


def test_a_sweep(tmp_path, encoder, capsys):
    rows, output = write_rows(tmp_path / "rows.json"), tmp_path / "out"
    words = ["cluster", "sweep", "--rows", rows, "--encoder", encoder, "--num-clusters", "2,4", "--questions", 5]
    assert main([*map(str, words), "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "18 distinct instructions, 5 questions to paraphrase" in shown
    assert "Try K = " in shown
    assert sorted(path.name for path in output.iterdir()) == [f"sweep.{kind}" for kind in ("csv", "png", "svg", "txt")]
    with open(output / "sweep.csv", newline="") as file:
        numbers = [row["num_clusters"] for row in csv.DictReader(file)]
    assert numbers == ["2", "4"]
    assert "5 questions, each in all templates of its kind (50 texts)" in (output / "sweep.txt").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-clusters", "4,x"], "--num-clusters is '4,x', expected whole numbers from 1, such as 4,16,64"),
        (["--num-clusters", "0"], "expected whole numbers from 1"),
        (["--questions", "-1"], "--questions is -1, expected 0 or more"),
    ],
)
def test_wrong_flags(tmp_path, capsys, words, message):
    rows = write_rows(tmp_path / "rows.json")
    assert main(["cluster", "sweep", "--rows", str(rows), "--output", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_to_look_at(capsys):
    assert main(["cluster", "sweep"]) == 2
    assert "nothing to cluster: give --recipe YAML or --rows FILE" in capsys.readouterr().err
