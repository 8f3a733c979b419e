import json
import os
import subprocess
import sys

import pytest

from llava_mocle.cli.main import main
from tests.inference import tiny


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval_command")
    tiny.write_base(folder / "base")
    tiny.write_images(folder / "images", 3)
    rows = [
        {
            "id": number,
            "image": f"{number % 3}.png",
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}"},
                {"from": "gpt", "value": "yes" if number % 2 else "no"},
            ],
        }
        for number, question in enumerate(tiny.QUESTIONS)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder


def test_scores_a_file_of_rows(work, tmp_path, capsys):
    arguments = ["eval", "--model", str(work / "base"), "--rows", str(work / "rows.json")]
    arguments += ["--image-folder", str(work / "images"), "--train-rows", str(work / "rows.json")]
    arguments += ["--output", str(tmp_path / "out"), "--max-new-tokens", "4", "--limit", "5"]
    assert main(arguments) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["domains"]["rows"]["n"] == 5
    assert results["domains"]["rows"]["majority"] | {"interval": None} == {
        "answer": "no", "n": 5, "score": 0.6, "interval": None
    }  # fmt: skip
    assert list(results["clusters"]) == ["none"]
    printed = capsys.readouterr().out
    assert "60.0" in printed
    assert str(tmp_path / "out" / "results.json") in printed.replace("\n", "")


def test_scores_the_held_out_rows_of_a_recipe(work, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    entry = f"{{name: shapes, data_path: {work / 'rows.json'}, image_folder: {work / 'images'}"
    recipe.write_text(f"datasets:\n- {entry}, eval_data_path: {work / 'rows.json'}}}\n")
    arguments = ["eval", "--model", str(work / "base"), "--recipe", str(recipe), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--max-new-tokens", "2", "--limit", "2"]) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["domains"]["shapes"]["n"] == 2
    recipe.write_text(f"datasets:\n- {entry}}}\n")
    assert main(arguments) == 2
    assert "eval_data_path" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--limit", "--max-new-tokens", "--num-beams", "--batch-size", "--num-chunks"])
def test_counts_must_be_positive(work, tmp_path, capsys, flag):
    arguments = ["eval", "--model", "m", "--rows", str(work / "rows.json"), "--output", str(tmp_path)]
    assert main([*arguments, flag, "0"]) == 2
    assert f"{flag} 0" in capsys.readouterr().err


def test_rows_in_parts_by_hand(work, tmp_path, capsys):
    arguments = ["eval", "--model", str(work / "base"), "--rows", str(work / "rows.json"), "--limit", "5"]
    arguments += ["--image-folder", str(work / "images"), "--max-new-tokens", "2", "--output"]
    for index in ("1", "0"):
        assert main([*arguments, str(tmp_path / "parts"), "--num-chunks", "2", "--chunk-idx", index]) == 0
    assert not (tmp_path / "parts" / "results.json").exists()
    for name in ("parts", "whole"):
        assert main([*arguments, str(tmp_path / name)]) == 0
    parts, whole = (tmp_path / name / "answers" / "rows.jsonl" for name in ("parts", "whole"))
    assert parts.read_bytes() == whole.read_bytes()


def test_a_dataset_that_would_change_nothing(work, tmp_path, capsys):
    arguments = ["eval", "--model", str(work / "base"), "--rows", str(work / "rows.json"), "--dataset", "scans"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
    assert "routes nothing" in capsys.readouterr().err


def test_an_output_that_is_a_file(work, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    arguments = ["eval", "--model", str(work / "base"), "--rows", str(work / "rows.json"), "--limit", "1"]
    assert main([*arguments, "--image-folder", str(work / "images"), "--output", str(tmp_path / "out")]) == 2
    assert "out: nothing can be written there (file exists)" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_on_two_processes_equal_one(work, tmp_path):
    words = ["eval", "--model", str(work / "base"), "--rows", str(work / "rows.json"), "--device", "cpu"]
    words += ["--image-folder", str(work / "images"), "--max-new-tokens", "4", "--output"]
    assert main([*words, str(tmp_path / "one")]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "llava_mocle.cli.main", *words, str(tmp_path / "two")]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    one, two = (tmp_path / name / "answers" / "rows.jsonl" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    assert results[0]["domains"] == results[1]["domains"]
