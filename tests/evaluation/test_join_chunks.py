"""Parts of a question file become one answers file, whole and in order, or nothing changes."""

import json
from pathlib import Path

import pytest

from llava_mocle.evaluation.answering.parts import part_of
from llava_mocle.evaluation.answering.question import GenerationSettings, Question
from llava_mocle.evaluation.answering.run import answer_questions
from llava_mocle.evaluation.join_chunks import main
from tests.evaluation.fakes import FakePredictor

QUESTIONS = [Question(number // 2, f"question {number}?") for number in range(13)]  # ids that two questions share


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    lines = [json.dumps({"question_id": question.question_id, "text": question.prompt}) for question in QUESTIONS]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    files = [tmp_path / f"a.jsonl.part-{index}-of-12" for index in range(12)]
    for index, file in enumerate(files):
        answer_questions(FakePredictor(), part_of(QUESTIONS, 12, index), file)
    return files


def join(folder: Path, *more: str) -> int:
    words = ["--answers-file", str(folder / "a.jsonl"), "--question-file", str(folder / "q.jsonl")]
    return main([*words, "--num-chunks", "12", "--model-path", "m", "--conv-mode", "vicuna_v1", *more])


def test_parts_give_the_file_of_one_run(parts, tmp_path, capsys) -> None:
    """Twelve: part 10 comes after part 9. The last ones have no questions."""
    answer_questions(FakePredictor(), QUESTIONS, tmp_path / "whole.jsonl")
    assert join(tmp_path) == 0
    assert "joined 12 parts, 13 answers" in capsys.readouterr().out
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_missing_unfinished_or_foreign_part_changes_nothing(parts, tmp_path, capsys) -> None:
    content = parts[1].read_bytes()
    (tmp_path / "a.jsonl").write_text("as it was")
    cases = [(content[:-20], "part-1-of-12: 1 answers to 2 questions"), (parts[2].read_bytes(), "answers question 2 ")]
    other, beams = FakePredictor(model_id="other@1"), GenerationSettings(num_beams=5)
    for predictor, settings, said in ((other, None, "other@1"), (FakePredictor(), beams, "num_beams=5")):
        answer_questions(predictor, part_of(QUESTIONS, 12, 1), parts[1], settings=settings, overwrite=True)
        cases.append((parts[1].read_bytes(), said))
    for changed, said in cases:
        parts[1].write_bytes(changed)
        assert join(tmp_path) == 2
        assert said in capsys.readouterr().err
    parts[1].unlink()
    assert join(tmp_path) == 2
    assert "part-1-of-12: this part is not there" in capsys.readouterr().err
    assert (tmp_path / "a.jsonl").read_text() == "as it was"


def test_another_models_answers_are_not_replaced(parts, tmp_path, capsys) -> None:
    answer_questions(FakePredictor(model_id="other@1"), QUESTIONS, tmp_path / "a.jsonl")
    before = (tmp_path / "a.jsonl").read_bytes()
    assert join(tmp_path) == 2
    assert "written by model 'other@1'" in capsys.readouterr().err
    assert (tmp_path / "a.jsonl").read_bytes() == before
    assert join(tmp_path, "--overwrite") == 0
    assert b"other@1" not in (tmp_path / "a.jsonl").read_bytes()
