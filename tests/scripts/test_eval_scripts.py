"""The scripts of scripts/eval/: one for every benchmark, and what each of them starts."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from llava_mocle.evaluation.answering.file import read_answers
from llava_mocle.evaluation.registry import all_tasks, get_tasks
from tests.evaluation.tiny_pope import write_model, write_pope
from tests.scripts.stubs import ROOT, Stubs

SCRIPTS = ROOT / "scripts" / "eval"
# Scripts that LLaVA has under another name than the task's.
LLAVA_NAMES = {"scienceqa": "sqa", "seed_bench": "seed", "mm_vet": "mmvet", "llava_bench": "llavabench"}
EVAL = ["-m", "llava_mocle.cli.main", "eval", "--model", "runs/mine", "--tasks"]
PLACES = ["--output", "runs/mine/eval", "--data-root", "playground/data/eval"]


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    return Stubs(tmp_path)


def test_every_benchmark_has_a_script_and_all_are_current() -> None:
    expected = runpy.run_path(str(SCRIPTS / "generate.py"))["scripts"]()
    assert set(expected) == {f"{LLAVA_NAMES.get(name, name)}.sh" for name in all_tasks()} | {"table4.sh"}
    found = {path.name: path.read_text() for path in SCRIPTS.glob("*.sh") if path.name != "evaluate.sh"}
    assert found == expected, "run `python scripts/eval/generate.py`"


@pytest.mark.parametrize("name", all_tasks())
def test_a_script_starts_its_benchmark(stubs: Stubs, name: str) -> None:
    script = f"{LLAVA_NAMES.get(name, name)}.sh"
    assert f"bash scripts/eval/{script} MODEL" in (SCRIPTS / script).read_text()
    assert stubs.run(f"eval/{script}", "runs/mine", "--limit", "a b").returncode == 0
    assert stubs.calls("python") == [[*EVAL, name, *PLACES, "--limit", "a b"]]


def test_a_table_is_several_benchmarks(stubs: Stubs) -> None:
    assert stubs.run("eval/table4.sh", "runs/mine").returncode == 0
    tasks = "mme,mmbench,scienceqa,geoqa,vqa_rad,slake,pathvqa"
    assert stubs.calls("python") == [[*EVAL, tasks, *PLACES]]
    assert [task.name for task in get_tasks(tasks)] == tasks.split(",")


def test_several_processes_and_other_folders(stubs: Stubs) -> None:
    assert stubs.run("eval/pope.sh", "runs/mine", NPROC="4", OUTPUT="out", DATA_ROOT="data").returncode == 0
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4"]
    assert stubs.calls("python") == [[*torchrun, *EVAL, "pope", "--output", "out", "--data-root", "data"]]


@pytest.mark.parametrize("words", [[], ["--limit", "3"]])
def test_a_model_must_be_named(stubs: Stubs, words: list[str]) -> None:
    result = stubs.run("eval/pope.sh", *words)
    assert result.returncode == 2
    assert "usage: bash scripts/eval/NAME.sh MODEL" in result.stderr
    assert stubs.calls() == []


def test_the_exit_code_is_that_of_the_evaluation(stubs: Stubs) -> None:
    assert stubs.run("eval/pope.sh", "runs/mine", STUB_PYTHON="exit 5").returncode == 5


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    model, data = write_model(tmp_path), write_pope(tmp_path / "data")
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
