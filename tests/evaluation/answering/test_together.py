"""Questions divided over processes: what is there is kept, what is another run's is refused, all go on alike."""

import json
import os
import time

import pytest

from llava_mocle.errors import ConfigError, DataError
from llava_mocle.evaluation.answering.file import read_answers
from llava_mocle.evaluation.answering.parts import Division
from llava_mocle.evaluation.answering.question import GenerationSettings, Question
from llava_mocle.evaluation.answering.run import answer_questions
from llava_mocle.evaluation.answering.together import Part, answer_together, part_of_this_process
from llava_mocle.evaluation.tasks.held_out import evaluate_rows
from tests.evaluation.fakes import FakePredictor
from tests.evaluation.together import run_together

QUESTIONS = [Question(number, f"question {'x' * number}?") for number in range(11)]
PROMPTS = [question.prompt for question in QUESTIONS]


@pytest.fixture
def whole(tmp_path):
    """One process's answers, to compare with."""
    path = tmp_path / "whole.jsonl"
    answer_questions(FakePredictor(), QUESTIONS, path)
    return path.read_bytes()


def asked(predictor: FakePredictor) -> int:
    return sum(map(len, predictor.batches))


def test_what_one_process_has_answered_is_kept(tmp_path, whole) -> None:
    path = tmp_path / "out" / "a.jsonl"
    answer_questions(FakePredictor(), QUESTIONS[:8], path)
    predictors = [FakePredictor(), FakePredictor()]
    results = run_together(2, lambda part: answer_together(predictors[part.index], QUESTIONS, path, part))
    assert [asked(predictor) for predictor in predictors] == [2, 1]
    assert path.read_bytes() == whole
    assert results == [read_answers(path), None]
    assert [file.name for file in path.parent.iterdir()] == ["a.jsonl"]


def test_another_models_answers_are_not_replaced(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    answer_questions(FakePredictor(), QUESTIONS[:8], path)
    before = path.read_bytes()
    other = FakePredictor(model_id="other@1")
    results = run_together(2, lambda part: answer_together(other, QUESTIONS, path, part))
    assert all("written by model 'fake@00000000'" in str(error) for error in results)
    beams = GenerationSettings(num_beams=5)
    results = run_together(2, lambda part: answer_together(FakePredictor(), QUESTIONS, path, part, settings=beams))
    assert all("num_beams=1" in str(error) for error in results)
    assert path.read_bytes() == before
    assert asked(other) == 0


def test_a_killed_run_goes_on_with_as_many_processes(tmp_path, whole) -> None:
    """Killed: two parts were begun, neither is done, and nothing is joined."""
    path = tmp_path / "out" / "a.jsonl"
    for index in range(2):
        part = [QUESTIONS[:6], QUESTIONS[6:]][index][:2]
        answer_questions(FakePredictor(), part, Division(path, 2, 0, 11).file(index))
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    predictor = FakePredictor()
    for error in run_together(3, lambda part: answer_together(predictor, QUESTIONS, path, part)):
        assert "was begun in 2 parts; this run has 3. Go on with 2 processes" in str(error)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    run_together(2, lambda part: answer_together(predictor, QUESTIONS, path, part))
    assert path.read_bytes() == whole
    assert asked(predictor) == 11 - 4
    assert [file.name for file in path.parent.iterdir()] == ["a.jsonl"]


def test_a_look_at_the_first_questions_does_not_cost_finished_parts(tmp_path, whole) -> None:
    path = tmp_path / "out" / "a.jsonl"
    for index in range(3):
        answer_together(FakePredictor(), QUESTIONS, path, Part(index, 4, joins=False))
    answer_together(FakePredictor(), QUESTIONS[:2], path, Part())  # --limit 2
    with pytest.raises(DataError, match=r"a\.jsonl was begun in 4 parts, and 3 of them are not there"):
        answer_together(FakePredictor(), QUESTIONS, path, Part())
    answer_together(FakePredictor(), QUESTIONS, path, Part(3, 4, joins=False))
    predictor = FakePredictor()
    answer_together(predictor, QUESTIONS, path, Part())
    assert asked(predictor) == 0
    assert path.read_bytes() == whole


def test_a_part_that_is_missing_after_overwriting_is_told(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    answer_together(FakePredictor(dict.fromkeys(PROMPTS, "old")), QUESTIONS, path, Part())
    for index in range(2):
        answer_together(FakePredictor(), QUESTIONS, path, Part(index, 3, joins=False), overwrite=True)
    with pytest.raises(DataError, match=r"a\.jsonl was begun in 3 parts, and 2 of them are not there"):
        answer_together(FakePredictor(), QUESTIONS, path, Part())


def test_processes_that_do_not_share_a_folder_are_told(tmp_path) -> None:
    def work(part: Part):
        return answer_together(FakePredictor(), QUESTIONS, tmp_path / f"node{part.index}" / "a.jsonl", part)

    first, _ = run_together(2, work)
    assert "a.1of2-0to11.jsonl: this part is not there" in str(first)


def test_parts_from_before_do_not_come_back(tmp_path, whole) -> None:
    path = tmp_path / "out" / "a.jsonl"
    old = FakePredictor(dict.fromkeys(PROMPTS, "old"))
    for index in range(3):
        answer_together(old, QUESTIONS, path, Part(index, 3, joins=False))
    run_together(2, lambda part: answer_together(FakePredictor(), QUESTIONS, path, part, overwrite=True))
    answer_together(FakePredictor(), QUESTIONS, path, Part())
    assert path.read_bytes() == whole
    # Not even such as a run that did not know of them has left lying there, or as were to replace other answers.
    for index in range(3):
        for other in ("", "0123456789ab"):
            stale = Division(path, 3, 0, 11, other).file(index)
            answer_questions(old, [QUESTIONS[:4], QUESTIONS[4:8], QUESTIONS[8:]][index], stale)
    answer_together(FakePredictor(), QUESTIONS, path, Part())
    assert path.read_bytes() == whole


def test_parts_that_replace_answers_do_so_whatever_the_clocks_say(tmp_path, whole) -> None:
    """A copied file has a new date, and machines' clocks differ."""
    path = tmp_path / "out" / "a.jsonl"
    answer_together(FakePredictor(dict.fromkeys(PROMPTS, "old")), QUESTIONS, path, Part())
    for index in range(2):
        answer_together(FakePredictor(), QUESTIONS, path, Part(index, 2, joins=False), overwrite=True)
    os.utime(path, (time.time() + 60, time.time() + 60))
    answer_together(FakePredictor(), QUESTIONS, path, Part())
    assert path.read_bytes() == whole
    assert [file.name for file in path.parent.iterdir()] == ["a.jsonl"]


def test_a_part_that_replaces_answers_goes_on_where_it_was_stopped(tmp_path, whole) -> None:
    path = tmp_path / "out" / "a.jsonl"
    answer_together(FakePredictor(dict.fromkeys(PROMPTS, "old")), QUESTIONS, path, Part())
    part = Part(0, 2, joins=False)
    answer_together(FakePredictor(), QUESTIONS, path, part, overwrite=True)
    (file,) = path.parent.glob("a.0of2*")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    predictor = FakePredictor()
    answer_together(predictor, QUESTIONS, path, part)
    assert asked(predictor) == 6 - 2
    answer_together(FakePredictor(), QUESTIONS, path, Part(1, 2, joins=False), overwrite=True)
    answer_together(FakePredictor(), QUESTIONS, path, Part())
    assert path.read_bytes() == whole


def test_parts_of_different_settings_are_refused_and_kept(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    for index in range(2):
        beams = GenerationSettings(num_beams=5 if index == 0 else 1)
        answer_together(FakePredictor(), QUESTIONS, path, Part(index, 2, joins=False), settings=beams)
    with pytest.raises(DataError, match=r"num_beams=5.*num_beams=1"):
        answer_together(FakePredictor(), QUESTIONS, path, Part())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.0of2-0to11.jsonl", "a.1of2-0to11.jsonl"]


def test_more_processes_than_questions(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    results = run_together(4, lambda part: answer_together(FakePredictor(), QUESTIONS[:2], path, part))
    assert [record["question_id"] for record in results[0]] == [0, 1]


def test_what_fails_on_one_is_raised_on_all(tmp_path) -> None:
    class Blind(FakePredictor):
        def predict_batch(self, requests, **settings):
            raise DataError("9.png cannot be decoded")

    def work(part: Part):
        return answer_together(Blind() if part.index == 1 else FakePredictor(), QUESTIONS, tmp_path / "a.jsonl", part)

    (told,) = {str(error) for error in run_together(2, work)}
    assert told.startswith("questions: question 6 cannot be asked: 9.png cannot be decoded. ")


def test_rows_are_shared_out_too(tmp_path) -> None:
    turns = [{"from": "human", "value": "Is it blue?"}, {"from": "gpt", "value": "no"}]
    domains = {name: ([{"id": n, "conversations": turns} for n in range(5)], "") for name in ("shapes", "scans")}
    expected = evaluate_rows(FakePredictor(), domains, tmp_path / "one")
    first, second = run_together(2, lambda part: evaluate_rows(FakePredictor(), domains, tmp_path / "two", part=part))
    assert second == {}
    assert first == expected
    assert json.loads((tmp_path / "two" / "results.json").read_text()) == json.loads(json.dumps(expected))
    for name in domains:
        one, two = (tmp_path / run / "answers" / f"{name}.jsonl" for run in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


def test_flags(no_launcher) -> None:
    assert (part_of_this_process().count, part_of_this_process().joins) == (1, True)
    part = part_of_this_process(4, 1)
    assert (part.index, part.count, part.joins, part.has_partners) == (1, 4, False, False)
    for wrong in ((None, 1), (4, None), (4, 4), (4, -1)):
        with pytest.raises(ConfigError, match="--chunk-idx"):
            part_of_this_process(*wrong)


def test_parts_by_hand_under_torchrun_are_refused(no_launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="--num-chunks under torchrun"):
        part_of_this_process(4, 1)


def test_srun_tasks_that_do_not_know_of_each_other_are_refused(no_launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # a job of one, or its script
    assert part_of_this_process().count == 1
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(ConfigError, match=r"srun started 8 tasks.*rank\.sh.*eval\.sbatch"):
        part_of_this_process()
    assert part_of_this_process(8, 3).index == 3  # each knows its part
    monkeypatch.setenv("RANK", "0")  # torchrun, started by srun
    assert part_of_this_process().count == 1
