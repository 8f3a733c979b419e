"""A shell script for every benchmark, and one run of a benchmark as a user starts it: alone and on two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from llava_mocle.cli.main import main
from llava_mocle.evaluation.answering.file import read_answers
from llava_mocle.evaluation.registry import all_tasks
from llava_mocle.evaluation.tasks.vqa_rad import VqaRad
from tests.evaluation.tasks.official_files import data_root, ready_items
from tests.inference import tiny

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts" / "eval"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval_scripts")
    base = tiny.write_base(folder / "base")
    tiny.write_checkpoint(folder / "model", base, tiny.write_encoder(folder / "encoder"))
    return folder / "model"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """POPE in miniature: 3 + 2 + 2 questions."""
    root = tmp_path_factory.mktemp("pope_data")
    (root / "pope" / "coco").mkdir(parents=True)
    (root / "pope" / "val2014").mkdir()
    number = 0
    for split, count in (("adversarial", 3), ("popular", 2), ("random", 2)):
        lines = []
        for index in range(count):
            number += 1
            Image.new("RGB", (20, 20), (30 * number, 90, 10)).save(root / "pope" / "val2014" / f"{number}.jpg")
            label = "yes" if index % 2 else "no"
            text = f"Is there a thing {number} in the image?"
            lines.append(json.dumps({"question_id": index + 1, "image": f"{number}.jpg", "text": text, "label": label}))
        (root / "pope" / "coco" / f"coco_pope_{split}.json").write_text("\n".join(lines))
    return root


# Scripts that LLaVA has under another name than the task's.
LLAVA_NAMES = {"scienceqa": "sqa", "seed_bench": "seed", "mm_vet": "mmvet", "llava_bench": "llavabench"}


def test_every_benchmark_has_a_script() -> None:
    scripts = {path.stem: path.read_text() for path in SCRIPTS.glob("*.sh")}
    assert set(scripts) == {LLAVA_NAMES.get(name, name) for name in all_tasks()} | {"evaluate", "table4"}
    for name in all_tasks():
        script = LLAVA_NAMES.get(name, name)
        assert f"\nevaluate {name} " in scripts[script]
        assert f"bash scripts/eval/{script}.sh MODEL" in scripts[script]


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
    ],
)
def test_nothing_to_do(words, message, capsys) -> None:
    assert main(["eval", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_equal_one(model, data, tmp_path) -> None:
    for processes in (1, 2):
        environment = os.environ | {"PYTHON": sys.executable, "NPROC": str(processes), "OMP_NUM_THREADS": "1"}
        environment |= {"DATA_ROOT": str(data), "OUTPUT": str(tmp_path / str(processes))}
        command = ["bash", str(SCRIPTS / "pope.sh"), str(model), "--max-new-tokens", "4", "--device", "cpu"]
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    one, two = (tmp_path / str(number) / "answers" for number in (1, 2))
    assert read_answers(one / "pope.jsonl") == read_answers(two / "pope.jsonl")
    assert [path.name for path in two.iterdir()] == ["pope.jsonl"]
    scores = [json.loads((tmp_path / str(n) / "results.json").read_text())["tasks"]["pope"] for n in (1, 2)]
    assert scores[0]["metrics"] == scores[1]["metrics"]
    assert scores[0]["clusters"] == scores[1]["clusters"]
