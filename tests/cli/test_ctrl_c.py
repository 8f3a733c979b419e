"""Ctrl-C on the long commands: one line, exit code 130, no traceback, and what is done is kept."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from llava_mocle.evaluation.answering.ahead import ahead_file
from llava_mocle.evaluation.answering.file import read_answers
from tests.clustering.encoders import make_tiny_encoder
from tests.inference import tiny
from tests.processes import children, ended
from tests.training.ranks import ROOT

# The command, held in the middle of its work: it says so, and waits for the signal. What stands for HOLD gets the
# signal where the command spends its time.
PROGRAM = """
import signal, sys, time
from pathlib import Path
def hold():
    Path(sys.argv[1]).touch()
    time.sleep(600)
HOLD
from llava_mocle.cli.main import program
program(sys.argv[2:])
"""


def listen_to_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupt(tmp_path: Path, hold: str, *words: str) -> tuple[int, str]:
    """Start a command, press Ctrl-C when it is held; its exit code and what it said on standard error."""
    held = tmp_path / "held"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("HOLD", hold), str(held), *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True,
        preexec_fn=listen_to_ctrl_c,
    )  # fmt: skip
    with ended(process):
        until = time.monotonic() + 240
        while not held.exists():
            assert process.poll() is None, process.communicate()[1][-3000:]
            assert time.monotonic() < until
            time.sleep(0.02)
        for pid in (process.pid, *children(process.pid)):  # as a terminal does
            os.kill(pid, signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    return process.returncode, said


def last_line(said: str) -> str:
    assert "Traceback" not in said, said[-3000:]
    return said.strip().replace("\r", "\n").splitlines()[-1]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("ctrl-c") / "base")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    path = tmp_path / "rows.json"
    turns = [[{"from": "human", "value": f"<image>\nWhat is {n}?"}, {"from": "gpt", "value": "a"}] for n in range(12)]
    path.write_text(json.dumps([{"id": n, "image": "a.png", "conversations": turn} for n, turn in enumerate(turns)]))
    return path


@pytest.mark.slow
def test_generate(tmp_path: Path, base: Path) -> None:
    hold = "import llava_mocle.model.load as load\nload._load_whole = lambda *args: hold()"
    code, said = interrupt(tmp_path, hold, "generate", "--model", str(base), "--prompt", "What?")
    assert (code, last_line(said)) == (130, "interrupted by Ctrl-C")


@pytest.mark.slow
def test_eval_keeps_its_answers(tmp_path: Path, base: Path, rows: Path) -> None:
    hold = """
from llava_mocle.inference import Predictor
answer = Predictor.predict_batch
calls = []
def predict_batch(self, *args, **kwargs):
    calls.append(1)
    return answer(self, *args, **kwargs) if len(calls) < 3 else hold()
Predictor.predict_batch = predict_batch
"""
    words = ["eval", "--model", str(base), "--rows", str(rows), "--image-folder", str(tmp_path), "--output", "out"]
    words += ["--batch-size", "2", "--max-new-tokens", "2", "--device", "cpu"]
    code, said = interrupt(tmp_path, hold, *words)
    assert code == 130, said
    assert last_line(said) == ("interrupted by Ctrl-C: the answers so far are kept; the same command goes on with them")
    (answers,) = (tmp_path / "out" / "answers").glob("*.jsonl")
    files = [file for file in (answers, ahead_file(answers)) if file.exists()]
    assert len({record["question_id"] for file in files for record in read_answers(file)}) == 4


@pytest.mark.slow
def test_model_vqa(tmp_path: Path, base: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question_id": 1, "text": "What?"}) + "\n")
    hold = """
from llava_mocle.inference import Predictor
Predictor.predict_batch = lambda *args, **kwargs: hold()
from llava_mocle.evaluation import model_vqa
sys.exit(model_vqa.main(sys.argv[2:]))
"""
    words = ["--model-path", str(base), "--question-file", str(questions), "--answers-file", "answers.jsonl"]
    code, said = interrupt(tmp_path, hold, *words, "--device", "cpu")
    assert code == 130, said
    assert "interrupted by Ctrl-C: the answers so far are kept" in last_line(said)


@pytest.mark.slow
def test_cluster(tmp_path: Path, rows: Path) -> None:
    encoder = make_tiny_encoder(tmp_path / "encoder")
    hold = "from llava_mocle.clustering import kmeans\nkmeans.fit = lambda *args, **kwargs: hold()"
    words = ["cluster", "--rows", str(rows), "--encoder", str(encoder), "--output", "k", "--num-clusters", "2"]
    code, said = interrupt(tmp_path, hold, *words, "--cache-dir", "cache", "--device", "cpu")
    assert code == 130, said
    assert "interrupted by Ctrl-C: embeddings that were stored are kept" in last_line(said)
    assert list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.slow
def test_data_check(tmp_path: Path, rows: Path) -> None:
    hold = """
import llava_mocle.data.check as check
def slow(aspect_ratio, path):
    Path(sys.argv[1]).touch()
    time.sleep(1)  # the thread that opens the image is waited for
check._trouble = slow
"""
    code, said = interrupt(tmp_path, hold, "data", "check", "--rows", str(rows), "--image-folder", str(tmp_path))
    assert (code, last_line(said)) == (130, "interrupted by Ctrl-C")
