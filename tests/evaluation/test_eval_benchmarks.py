"""Benchmarks from the command line: `llava-mocle eval --tasks`."""

import json

import pytest

from llava_mocle.cli.main import main
from llava_mocle.evaluation.tasks.medical_qa import VqaRad
from tests.evaluation.tasks.official_files import data_root, ready_items
from tests.evaluation.tiny_pope import write_model, write_pope


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pope(tmp_path_factory.mktemp("pope"))


def test_a_benchmark_from_the_command_line(model, data, tmp_path, capsys) -> None:
    words = ["eval", "--model", str(model), "--tasks", "pope", "--data-root", str(data), "--device", "cpu"]
    assert main([*words, "--output", str(tmp_path), "--max-new-tokens", "4"]) == 0
    assert "POPE" in capsys.readouterr().out
    entry = json.loads((tmp_path / "results.json").read_text())["tasks"]["pope"]
    assert entry["n"] == 7
    assert {"f1_adversarial", "f1_popular", "f1_random"} <= entry["metrics"].keys()
    # The headline is over the 3 adversarial questions.
    assert sum(cluster["n"] for cluster in entry["clusters"].values()) == 3


def test_llava_meds_count_is_asked_for(model, tmp_path, capsys) -> None:
    root = data_root(tmp_path, "vqa_rad")
    ready_items(VqaRad(), root, ["vqa_rad/images/synpic1.jpg", "vqa_rad/images/synpic2.jpg"])
    words = ["eval", "--model", str(model), "--tasks", "vqa_rad", "--data-root", str(root), "--device", "cpu"]
    words += ["--output", str(tmp_path / "out"), "--max-new-tokens", "2"]
    for flags, headline in (([], "open_recall"), (["--legacy-llava-med"], "open_recall_legacy")):
        assert main([*words, *flags]) == 0
        entry = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]["vqa_rad"]
        assert (entry["headline"], next(iter(entry["metrics"]))) == (headline, headline)


def test_the_version_of_mmbenchs_matcher_is_asked_for(model, tmp_path, capsys) -> None:
    root = data_root(tmp_path, "mmbench")
    words = ["eval", "--model", str(model), "--tasks", "mmbench", "--data-root", str(root), "--device", "cpu"]
    words += ["--output", str(tmp_path / "out"), "--max-new-tokens", "2"]
    for flags, scorer in (([], "VLMEvalKit 2024"), (["--mmbench-matcher", "2025"], "VLMEvalKit 2025")):
        assert main([*words, *flags]) == 0
        # The second time, the stored answers are scored again.
        entry = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]["mmbench"]
        assert entry["scorer"] == scorer


def test_files_that_are_missing_stop_a_run(tmp_path, capsys) -> None:
    assert main(["eval", "--model", "x", "--tasks", "mme", "--data-root", str(tmp_path), "--output", "y"]) == 2
    assert "of its files are missing" in capsys.readouterr().err


CHUNKS = ["--model", "x", "--output", "y", "--tasks", "pope"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--model is missing"),
        (["--model", "x"], "--output is missing"),
        ([*CHUNKS, "--num-chunks", "2", "--chunk-idx", "2"], "indices go from 0"),
        ([*CHUNKS, "--num-chunks", "2"], "indices go from 0"),
        ([*CHUNKS, "--chunk-idx", "1"], "without --num-chunks"),
        ([*CHUNKS, "--judge-max-tokens", "0"], "--judge-max-tokens 0: must be at least 1"),
    ],
)
def test_nothing_to_do(words, message, capsys) -> None:
    assert main(["eval", *words]) == 2
    assert message in capsys.readouterr().err
