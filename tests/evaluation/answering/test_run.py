import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from llava_mocle.errors import ConfigError, DataError
from llava_mocle.evaluation.answering.ahead import ahead_file
from llava_mocle.evaluation.answering.file import read_answers
from llava_mocle.evaluation.answering.question import GenerationSettings, Question, check_questions
from llava_mocle.evaluation.answering.run import answer_questions
from tests.evaluation.fakes import FakePredictor

QUESTIONS = [Question(number, f"question {'x' * (number % 7)}?", route_text=f"r{number}") for number in range(20)]

_SCRIPT = """
import sys
from llava_mocle.evaluation.answering.run import answer_questions
from tests.evaluation.fakes import FakePredictor
from tests.evaluation.answering.test_run import QUESTIONS
answer_questions(FakePredictor(delay=float(sys.argv[2])), QUESTIONS, sys.argv[1], batch_size=2)
"""


def test_answers_come_in_order_with_their_metadata(tmp_path):
    predictor = FakePredictor()
    settings = GenerationSettings(max_new_tokens=5, num_beams=2)
    answers = answer_questions(predictor, QUESTIONS, tmp_path / "a.jsonl", batch_size=8, settings=settings)
    assert [record["question_id"] for record in answers] == list(range(20))
    assert answers == read_answers(tmp_path / "a.jsonl")
    assert answers[3]["metadata"] == {
        "cluster_id": len(QUESTIONS[3].prompt) % 3,
        "cluster_distance": 0.25,
        "generation": "max_new_tokens=5 num_beams=2 temperature=0.0",
        "predictor": "template=fake dtype=float32",
    }
    assert [len(batch) for batch in predictor.batches] == [8, 8, 4]
    asked = [request.route_text for batch in predictor.batches for request in batch]
    assert sorted(asked) == sorted(question.route_text for question in QUESTIONS)


def test_a_run_continues_where_it_stopped(tmp_path):
    path, whole = tmp_path / "a.jsonl", tmp_path / "whole.jsonl"
    answer_questions(FakePredictor(), QUESTIONS, whole, batch_size=3)
    answer_questions(FakePredictor(), QUESTIONS[:7], path, batch_size=3)
    with open(path, "ab") as file:
        file.write(b'{"question_id": 7, "prom')
    predictor = FakePredictor()
    answer_questions(predictor, QUESTIONS, path, batch_size=3)
    assert path.read_bytes() == whole.read_bytes()
    assert sum(len(batch) for batch in predictor.batches) == 13
    again = FakePredictor()
    assert len(answer_questions(again, QUESTIONS[:5], path)) == 5
    assert again.batches == []


def test_killed_five_times_equals_unbroken(tmp_path):
    path, whole = tmp_path / "a.jsonl", tmp_path / "whole.jsonl"
    answer_questions(FakePredictor(), QUESTIONS, whole, batch_size=2)
    root = Path(__file__).parents[3]
    rng = random.Random(0)
    kills = 0
    while True:
        size = written(path)
        command = [sys.executable, "-c", _SCRIPT, str(path), "0.5" if kills < 5 else "0"]
        process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        if kills == 5:
            assert process.wait(60) == 0, process.stderr.read().decode()
            break
        # Killed while it works, however long its imports took: once it has written something.
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if written(path) > size:
                break
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.06))
        assert process.poll() is None, process.stderr.read().decode()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert path.read_bytes() == whole.read_bytes()
    assert not ahead_file(path).exists()


def written(path: Path) -> int:
    """Bytes of the answers, of those that wait for their turn too."""
    return sum(file.stat().st_size for file in (path, ahead_file(path)) if file.exists())


def test_bad_questions_cost_no_work(tmp_path):
    predictor = FakePredictor()
    duplicated = [*QUESTIONS, Question(3, "again?", source="q.jsonl, line 21")]
    with pytest.raises(DataError, match=r"q.jsonl, line 21: question_id 3 stands 2 times"):
        check_questions(duplicated[::-1])
    with pytest.raises(DataError, match=r"question_id 3 stands 2 times"):
        answer_questions(predictor, [*QUESTIONS, QUESTIONS[3]], tmp_path / "a.jsonl")
    missing = [*QUESTIONS, Question(99, "where?", images=(tmp_path / "none.png",), source="q.jsonl, line 21")]
    with pytest.raises(DataError, match=r"q.jsonl, line 21: question 99 .*none.png"):
        answer_questions(predictor, missing, tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match="--batch-size"):
        answer_questions(predictor, QUESTIONS, tmp_path / "a.jsonl", batch_size=0)
    assert predictor.batches == []
    assert not (tmp_path / "a.jsonl").exists()


def test_questions_may_share_an_id(tmp_path):
    """As those about one image do in LLaVA's files for MME and TextVQA."""
    questions = [Question("0020.png", f"Is it {word}?") for word in ("red", "blue", "red or blue")]
    whole, path = tmp_path / "whole.jsonl", tmp_path / "a.jsonl"
    answers = answer_questions(FakePredictor(), questions, whole)
    assert [answer["prompt"] for answer in answers] == [question.prompt for question in questions]
    assert len({answer["answer_id"] for answer in answers}) == 3
    answer_questions(FakePredictor(), questions[:2], path)
    assert answer_questions(FakePredictor(), questions, path) == answers
    assert path.read_bytes() == whole.read_bytes()


def test_other_settings_or_model_need_overwrite(tmp_path):
    path = tmp_path / "a.jsonl"
    answer_questions(FakePredictor(), QUESTIONS[:2], path)
    with pytest.raises(DataError, match="num_beams=4"):
        answer_questions(FakePredictor(), QUESTIONS, path, settings=GenerationSettings(num_beams=4))
    retyped = FakePredictor()
    retyped.settings = "template=fake dtype=bfloat16"
    with pytest.raises(DataError, match=r"dtype=float32.*dtype=bfloat16"):
        answer_questions(retyped, QUESTIONS, path)
    science, charts = ([replace(question, dataset=name) for question in QUESTIONS] for name in ("science", "charts"))
    answer_questions(FakePredictor(), science[:2], tmp_path / "science.jsonl")
    with pytest.raises(DataError, match=r"'science'.*'charts'"):
        answer_questions(FakePredictor(), charts, tmp_path / "science.jsonl")
    other = FakePredictor(model_id="other@1")
    with pytest.raises(DataError, match="other@1"):
        answer_questions(other, QUESTIONS, path)
    assert len(answer_questions(other, QUESTIONS, path, overwrite=True)) == 20
