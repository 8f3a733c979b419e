"""Answers before their turn: nothing is lost, whatever the run is killed at and whoever goes on."""

import shutil

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering import run
from llava_mocle.evaluation.answering.ahead import ahead_file
from llava_mocle.evaluation.answering.file import AnswerFile, read_answers
from llava_mocle.evaluation.answering.parts import Division
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.answering.run import answer_questions
from llava_mocle.evaluation.answering.together import Part, answer_together
from tests.evaluation.fakes import FakePredictor
from tests.evaluation.together import run_together

# The longer come first, so the last questions are answered before the first.
QUESTIONS = [Question(number, "?" * (number + 1)) for number in range(12)]


class Killed(Exception):
    pass


class Mortal(FakePredictor):
    """Dies in its batch number `lives`."""

    def __init__(self, lives: int) -> None:
        super().__init__()
        self.lives = lives

    def predict_batch(self, requests, **settings):
        if len(self.batches) == self.lives:
            raise Killed
        return super().predict_batch(requests, **settings)


def asked(predictor: FakePredictor) -> int:
    return sum(map(len, predictor.batches))


@pytest.fixture
def whole(tmp_path) -> bytes:
    path = tmp_path / "whole.jsonl"
    answer_questions(FakePredictor(), QUESTIONS, path, batch_size=2)
    return path.read_bytes()


def killed(path, lives: int, questions=QUESTIONS) -> None:
    with pytest.raises(Killed):
        answer_questions(Mortal(lives), questions, path, batch_size=2)


@pytest.mark.parametrize("lives", range(6))
def test_a_killed_run_loses_one_batch_at_most(tmp_path, whole, lives):
    path = tmp_path / "a.jsonl"
    killed(path, lives)
    assert [record["question_id"] for record in read_answers(path)] == list(range(len(read_answers(path))))
    predictor = FakePredictor()
    answer_questions(predictor, QUESTIONS, path, batch_size=2)
    assert asked(predictor) == 12 - 2 * lives
    assert path.read_bytes() == whole
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "whole.jsonl"]


def test_killed_at_every_byte_of_what_waits(tmp_path, whole):
    path = tmp_path / "a.jsonl"
    killed(path, 2)
    content = ahead_file(path).read_bytes()
    ends = {content.find(b"\n", start) + 1 for start in range(len(content))} | {0}
    for size in {cut for end in ends for cut in (end - 1, end, end + 1) if 0 <= cut <= len(content)}:
        broken = tmp_path / "broken.jsonl"
        shutil.copy(path, broken)
        ahead_file(broken).write_bytes(content[:size])
        predictor = FakePredictor()
        answer_questions(predictor, QUESTIONS, broken, batch_size=2)
        assert asked(predictor) == 12 - content[:size].count(b"\n") - len(read_answers(path))
        assert broken.read_bytes() == whole
        broken.unlink()


def test_killed_before_what_waited_was_removed(tmp_path, whole):
    path = tmp_path / "a.jsonl"
    killed(path, 3)
    content = ahead_file(path).read_bytes()
    answer_questions(FakePredictor(), QUESTIONS, path, batch_size=2)
    ahead_file(path).write_bytes(content)
    predictor = FakePredictor()
    answer_questions(predictor, QUESTIONS, path)
    assert asked(predictor) == 0
    assert path.read_bytes() == whole
    assert not ahead_file(path).exists()


def test_a_look_at_the_first_questions_keeps_what_waits(tmp_path, whole):
    path = tmp_path / "a.jsonl"
    killed(path, 3)
    first, all_of_them = FakePredictor(), FakePredictor()
    assert len(answer_questions(first, QUESTIONS[:3], path)) == 3  # --limit 3
    answer_questions(all_of_them, QUESTIONS, path, batch_size=2)
    assert asked(first) + asked(all_of_them) == 12 - 6
    assert path.read_bytes() == whole


def test_what_another_model_left_is_refused_and_replaced_with_overwrite(tmp_path):
    path = tmp_path / "a.jsonl"
    killed(path, 1)
    before = ahead_file(path).read_bytes()
    other = FakePredictor(model_id="other@1")
    with pytest.raises(DataError, match=r"a\.jsonl\.ahead, answer 1: written by model 'fake@00000000'"):
        answer_questions(other, QUESTIONS, path)
    assert ahead_file(path).read_bytes() == before
    answers = answer_questions(other, QUESTIONS, path, overwrite=True)
    assert {answer["model_id"] for answer in answers} == {"other@1"}
    assert not ahead_file(path).exists()


def test_several_processes_take_over_what_one_left(tmp_path, whole):
    path = tmp_path / "out" / "a.jsonl"
    killed(path, 3)
    predictors = [FakePredictor(), FakePredictor()]
    run_together(2, lambda part: answer_together(predictors[part.index], QUESTIONS, path, part))
    assert sum(map(asked, predictors)) == 12 - 6
    assert path.read_bytes() == whole
    assert [file.name for file in path.parent.iterdir()] == ["a.jsonl"]


def test_parts_that_were_killed_go_on_and_are_joined(tmp_path, whole):
    path = tmp_path / "out" / "a.jsonl"
    for index, part in enumerate((QUESTIONS[:6], QUESTIONS[6:])):
        killed(Division(path, 2, 0, 12).file(index), 2, part)
    predictor = FakePredictor()
    run_together(2, lambda part: answer_together(predictor, QUESTIONS, path, part, batch_size=2))
    assert asked(predictor) == 12 - 8
    assert path.read_bytes() == whole
    assert [file.name for file in path.parent.iterdir()] == ["a.jsonl"]


def test_overwriting_removes_what_waits(tmp_path, whole):
    path = tmp_path / "out" / "a.jsonl"
    killed(path, 3)
    killed(Division(path, 2, 0, 12).file(0), 1, QUESTIONS[:6])
    predictor = FakePredictor()
    answer_together(predictor, QUESTIONS, path, Part(), overwrite=True)
    assert asked(predictor) == 12
    assert [file.name for file in path.parent.iterdir()] == ["a.jsonl"]


def test_an_answers_file_of_a_version_that_kept_the_order_goes_on(tmp_path, whole):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:5]) + b'{"question_id": 5, "pro')
    predictor = FakePredictor()
    answer_questions(predictor, QUESTIONS, path, batch_size=2)
    assert asked(predictor) == 7
    assert path.read_bytes() == whole


def test_many_questions_are_ordered_in_turn(tmp_path, whole, monkeypatch):
    """So the answers file grows while they are answered, and few answers wait."""
    monkeypatch.setattr(run, "_ORDERED_TOGETHER", 4)
    path, sizes = tmp_path / "a.jsonl", []
    appended = AnswerFile.append
    monkeypatch.setattr(AnswerFile, "append", lambda file, new: (sizes.append(len(new)), appended(file, new)))
    answer_questions(FakePredictor(), QUESTIONS, path, batch_size=2)
    assert sum(sizes) == 12
    assert max(sizes) <= 4
    assert path.read_bytes() == whole
