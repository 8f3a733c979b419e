import json

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.file import FIELDS, AnswerFile, AnswerRun, make_answer, read_answers
from llava_mocle.evaluation.answering.question import Question


def answer(question_id, text="yes", model="m@1", **metadata):
    return make_answer(question_id, f"question {question_id}?", text, model, metadata)


def test_records_have_llavas_fields_in_order(tmp_path):
    with AnswerFile(tmp_path / "deep" / "answers.jsonl", AnswerRun("m@1")) as file:
        file.append([answer(1, "naïve 猫\nline\u2028two", cluster_id=3, cluster_distance=0.5)])
    (line,) = (tmp_path / "deep" / "answers.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    record = json.loads(line)
    assert tuple(record) == FIELDS
    assert record["text"] == "naïve 猫\nline\u2028two"
    assert record["metadata"] == {"cluster_id": 3, "cluster_distance": 0.5}
    assert read_answers(tmp_path / "deep" / "answers.jsonl") == [record]


def test_two_processes_do_not_write_one_file(tmp_path):
    path = tmp_path / "a.jsonl"
    with AnswerFile(path, AnswerRun("m@1")) as file:
        file.append([answer(1)])
        for overwrite in (False, True):
            with pytest.raises(DataError, match=r"a\.jsonl: another process is writing"):
                AnswerFile(path, AnswerRun("m@1"), overwrite=overwrite)
        file.append([answer(2)])
    with pytest.raises(DataError, match="written by model"):
        AnswerFile(path, AnswerRun("other@1"))
    with AnswerFile(path, AnswerRun("m@1")) as file:
        assert file.answers == [answer(1), answer(2)]


def test_answer_ids_follow_from_model_and_question():
    assert answer(1) == answer(1)
    assert len({answer(1)["answer_id"], answer(2)["answer_id"], answer(1, model="m@2")["answer_id"]}) == 3


@pytest.mark.parametrize("rest", ['{"question_id": 3, "te', '{"question_id": 3}', "\u00e9"])
def test_a_half_written_last_line_is_dropped(tmp_path, rest):
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path, AnswerRun("m@1")) as file:
        file.append([answer(1), answer(2)])
    whole = path.read_bytes()
    path.write_bytes(whole + rest.encode()[: -1 or None])
    assert [record["question_id"] for record in read_answers(path)] == [1, 2]
    with AnswerFile(path, AnswerRun("m@1")) as file:
        assert path.read_bytes() == whole
        assert [record["question_id"] for record in file.answers] == [1, 2]
        file.append([answer(3)])
    assert [record["question_id"] for record in read_answers(path)] == [1, 2, 3]


def test_answers_of_another_model_are_refused_and_kept(tmp_path):
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path, AnswerRun("m@1")) as file:
        file.append([answer(1)])
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"'m@1'.*'m@2'.*--overwrite"):
        AnswerFile(path, AnswerRun("m@2"))
    assert path.read_bytes() == before
    with AnswerFile(path, AnswerRun("m@2"), overwrite=True) as file:
        assert file.answers == []
    assert path.read_bytes() == b""


def test_answers_of_other_settings_are_refused(tmp_path):
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path, AnswerRun("m@1", {"generation": "num_beams=1"})) as file:
        file.append([answer(1, generation="num_beams=1")])
    with AnswerFile(path, AnswerRun("m@1", {"generation": "num_beams=1", "predictor": "dtype=float32"})) as file:
        assert len(file.answers) == 1
    with pytest.raises(DataError, match=r"num_beams=1.*num_beams=3"):
        AnswerFile(path, AnswerRun("m@1", {"generation": "num_beams=3"}))


def test_other_questions_are_refused(tmp_path):
    with AnswerFile(tmp_path / "answers.jsonl", AnswerRun("m@1")) as file:
        file.append([answer(1), answer(2)])
        assert file.check_prefix([Question(n, f"question {n}?") for n in (1, 2, 3)]) == 2
        assert file.check_prefix([Question(1, "question 1?")]) == 1
        with pytest.raises(DataError, match="answer 2: answers question 2"):
            file.check_prefix([Question(1, "question 1?"), Question(3, "question 3?")])
        with pytest.raises(DataError, match="another wording"):
            file.check_prefix([Question(1, "another wording")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json\n", "line 1: not JSON"),
        ('{"question_id": 1}\n', "no field 'prompt'"),
        ("[1]\n", "no field 'question_id'"),
        (
            json.dumps(answer(1) | {"question_id": [1]}) + "\n",
            r"line 1: field 'question_id' is \[1\], expected a text or a",
        ),
        (json.dumps(answer(1) | {"question_id": True}) + "\n", "line 1: field 'question_id' is True, expected a text"),
        (
            json.dumps(answer(1) | {"question_id": "a\ud83d"}) + "\n",
            "line 1: field 'question_id' is .* half a surrogate",
        ),
        (json.dumps(answer(1) | {"text": None}) + "\n", "line 1: 'text' is None, expected a text"),
        (json.dumps(answer(1)) + "\n\n" + json.dumps(answer(1)) + "\n", r"line 3: question_id 1 .* line 1"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        AnswerFile(path, AnswerRun("m@1"))
    assert path.read_text() == content
