"""How questions are divided into parts, what the part files are called, and how they are joined."""

import pytest

from llava_mocle.errors import ConfigError, DataError
from llava_mocle.evaluation.answering.file import AnswerRun, read_answers
from llava_mocle.evaluation.answering.parts import Division, divide, find_divisions, join_parts, part_of, remove_parts
from llava_mocle.evaluation.answering.question import GenerationSettings, Question
from llava_mocle.evaluation.answering.run import answer_questions, answer_run
from tests.evaluation.fakes import FakePredictor

QUESTIONS = [Question(number, f"question {'x' * (number % 7)}?") for number in range(20)]
RUN = answer_run(FakePredictor(), GenerationSettings())


def answer(questions, path, **model) -> None:
    answer_questions(FakePredictor(**model), questions, path)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20, 23])
def test_parts_give_the_whole(tmp_path, count):
    parts = [part_of(QUESTIONS, count, index) for index in range(count)]
    assert [question for part in parts for question in part] == QUESTIONS
    if count == 3:
        # LLaVA's own parts: of ceil(20 / 3).
        assert [len(part) for part in parts] == [7, 7, 6]
        for index, part in enumerate(parts):
            answer_questions(FakePredictor(), part, tmp_path / f"{index}.jsonl", batch_size=4)
        answer_questions(FakePredictor(), QUESTIONS, tmp_path / "whole.jsonl", batch_size=4)
        joined = b"".join((tmp_path / f"{index}.jsonl").read_bytes() for index in range(3))
        assert joined == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(("count", "index"), [(0, 0), (2, 2), (2, -1)])
def test_parts_out_of_range_are_refused(count, index):
    with pytest.raises(ConfigError, match="--chunk-idx"):
        part_of(QUESTIONS, count, index)


def test_part_files_are_found_by_their_names(tmp_path) -> None:
    whole = tmp_path / "a[1].jsonl"
    divisions = [Division(whole, 2, 0, 20), Division(whole, 2, 5, 20), Division(whole, 12, 0, 20, "0123456789ab")]
    assert divisions[2].file(10).name == "a[1].10of12-0to20.instead-of-0123456789ab.jsonl"
    for division in divisions:
        division.file(1).touch()
    for other in ("b[1].0of2-0to20.jsonl", "a[1].0of2-0to20.txt", "a[1].jsonl", "a[1].0of2.jsonl"):
        (tmp_path / other).touch()
    assert find_divisions(whole) == divisions
    assert [division.missing for division in divisions[:2]] == [[0], [0]]
    remove_parts(whole, 0)
    assert find_divisions(whole) == divisions
    remove_parts(whole)
    assert find_divisions(whole) == []
    assert len(list(tmp_path.iterdir())) == 4


def test_answers_before_the_parts_are_kept(tmp_path) -> None:
    answer(QUESTIONS, tmp_path / "expected.jsonl")
    whole = tmp_path / "a.jsonl"
    answer(QUESTIONS[:5], whole)
    division = divide(whole, QUESTIONS, RUN, 2, 0)
    assert (division.start, division.total) == (5, 20)
    for index, file in enumerate(division.files):
        answer(part_of(QUESTIONS[5:], 2, index), file)
    assert division.finished
    assert division.join(QUESTIONS, RUN) == read_answers(whole)
    assert whole.read_bytes() == (tmp_path / "expected.jsonl").read_bytes()
    assert find_divisions(whole) == []


def test_a_joined_file_is_whole_or_as_it_was(tmp_path) -> None:
    """Answers that the parts go on from are gone, or those of another model."""
    whole = tmp_path / "a.jsonl"
    division = Division(whole, 2, 5, 20)
    for index, file in enumerate(division.files):
        answer(part_of(QUESTIONS[5:], 2, index), file)
    with pytest.raises(DataError, match="0 answers, but the parts beside it go on after 5"):
        division.join(QUESTIONS, RUN)
    assert not whole.exists()
    answer(QUESTIONS[:5], whole, model_id="other@1")
    before = whole.read_bytes()
    with pytest.raises(DataError, match="written by model 'other@1'"):
        division.join(QUESTIONS, RUN)
    assert whole.read_bytes() == before
    assert division.finished


def test_without_a_run_the_first_answer_says_what_all_must_share(tmp_path) -> None:
    files = [tmp_path / "0", tmp_path / "1"]
    for index, file in enumerate(files):
        answer(part_of(QUESTIONS, 2, index), file, model_id=f"model@{index}")
    with pytest.raises(DataError, match="1, answer 1: written by model 'model@1', but this run's model is 'model@0'"):
        join_parts(tmp_path / "a.jsonl", files, QUESTIONS)
    assert len(join_parts(tmp_path / "a.jsonl", files[:1], QUESTIONS[:10], AnswerRun("model@0"))) == 10
