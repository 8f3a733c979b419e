"""Every field of every question file of LLaVA's programs, put wrong in turn: answered, or refused in one line."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from llava_mocle.errors import DataError
from llava_mocle.evaluation import model_vqa, model_vqa_loader, model_vqa_mmbench, model_vqa_science
from llava_mocle.evaluation.answering.file import read_answers
from llava_mocle.evaluation.answering.question import Question, check_id, check_questions
from llava_mocle.evaluation.answering.run import answer_questions
from tests.evaluation.fakes import FakePredictor
from tests.inference import tiny

MISSING = object()
HALF = "\ud83d"  # half a surrogate pair, which JSON can write and UTF-8 cannot
VALUES = {
    "null": None,
    "true": True,
    "number": 7,
    "negative": -3,
    "huge": 10**30,
    "float": 1.5,
    "whole float": 1.0,
    "nan": float("nan"),
    "infinite": float("inf"),
    "text": "x",
    "empty": "",
    "blank": " \t",
    "long": "A" * 5000,
    "nul": "a\0b",
    "half": f"a{HALF}b",
    "list": [],
    "list of null": [None],
    "nested list": [["x"]],
    "list of half": [HALF],
    "object": {},
    "filled object": {"a": 1},
    "missing": MISSING,
}


@pytest.fixture
def fake(monkeypatch):
    """LLaVA's programs with a predictor that needs no model."""
    monkeypatch.setattr("llava_mocle.inference.Predictor.from_pretrained", lambda *_, **__: FakePredictor())


@pytest.fixture
def folder(tmp_path):
    tiny.write_images(tmp_path / "images", 2)
    return tmp_path


def ask(program, folder, path, *more):
    answers = folder / "answers.jsonl"
    answers.unlink(missing_ok=True)
    words = ["--model-path", "fake", "--image-folder", str(folder / "images"), "--question-file", str(path)]
    return program.main([*words, "--answers-file", str(answers), *more]), answers


def with_field(record, name, value):
    changed = {key: old for key, old in record.items() if key != name}
    return changed if value is MISSING else changed | {name: value}


def holds(program, folder, path, capsys, *more):
    """The ids that were answered, twice the same; None where the file is refused in one line, and nothing answered."""
    code, answers = ask(program, folder, path, *more)
    error = capsys.readouterr().err
    if code == 0:
        found = read_answers(answers)  # what was written is read back
        before = answers.read_bytes()
        words = ["--model-path", "fake", "--image-folder", str(folder / "images"), "--question-file", str(path)]
        assert program.main([*words, "--answers-file", str(answers), *more]) == 0
        assert answers.read_bytes() == before
        return [answer["question_id"] for answer in found]
    assert code == 2
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(error.strip().splitlines()) == 1
    assert path.name in line
    assert "record 1" in line or "line 2" in line or "row 1" in line
    assert len(line) < 1000
    assert not answers.exists()
    return None


LINE = {"question_id": 1, "image": "0.png", "text": "What is it?", "category": "conv"}
# What may stand there, and then is answered. A question without image is one about its text.
MEANT = {
    "question_id": {"number", "negative", "huge", "text", "long", "nul"},
    "image": {"null", "list", "missing"},
    "text": {"text", "long", "nul"},
    "category": set(VALUES),  # LLaVA's own, which no program reads
    "route_text": {"null", "text", "empty", "blank", "long", "nul", "missing"},
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", MEANT)
def test_a_line_of_a_question_file(folder, fake, capsys, name, value):
    lines = [LINE | {"question_id": "first"}, with_field(LINE | {"route_text": "it"}, name, VALUES[value])]
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = holds(model_vqa, folder, path, capsys)
    assert (found is not None) == (value in MEANT[name])
    if found is not None:
        assert found == ["first", lines[1]["question_id"]]


ROW = {"id": "5", "image": "0.png", "conversations": [{"from": "human", "value": "<image>\nWhich?\nA. x\nB. y"}]}


@pytest.mark.parametrize("value", [name for name in VALUES if name not in ("true", "whole float")])
def test_the_id_of_a_science_question(folder, fake, capsys, value):
    rows = [ROW | {"id": "first"}, with_field(ROW, "id", VALUES[value])]
    path = folder / "science.json"
    path.write_text(json.dumps(rows))
    found = holds(model_vqa_science, folder, path, capsys)
    assert (found is not None) == (value in MEANT["question_id"])


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (10, 200, 30)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


CELLS = {"index": "9", "question": "Which?", "hint": "nan", "A": "cat", "B": "dog", "C": "", "D": "", "image": png()}
TEXTS = ("number", "negative", "huge", "float", "nan", "infinite", "text", "empty", "blank", "long", "missing")
REFUSED_CELLS = {
    "index": {"empty", "blank"},
    "question": {"empty", "blank", "nan"},
    "image": set(TEXTS),
}


@pytest.mark.parametrize("value", TEXTS)
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_of_an_mmbench_table(folder, fake, capsys, name, value):
    cell = "  " if value == "blank" else VALUES[value]
    rows = [CELLS | {"index": "8"}, with_field(CELLS, name, "" if cell is MISSING else str(cell))]
    path = folder / "mmbench.tsv"
    path.write_text(
        "\n".join("\t".join(row.get(key, "") for key in CELLS) for row in [dict(zip(CELLS, CELLS, strict=True)), *rows])
    )
    found = holds(model_vqa_mmbench, folder, path, capsys, "--all-rounds")
    refused = REFUSED_CELLS.get(name, set()) | ({"missing"} if name in ("index", "question") else set())
    assert (found is None) == (value in refused)
    if found is not None and name == "index":
        assert str(found[-2]) == str(cell)


@pytest.mark.parametrize("index", ["../../up", "a/b", "a\\b", "x" * 300, "1" * 5000, "ﬁ"])
def test_an_index_names_no_file_elsewhere(folder, fake, capsys, index):
    path = folder / "tables" / "mmbench.tsv"
    path.parent.mkdir()
    path.write_text(
        "\n".join("\t".join(row.values()) for row in [dict(zip(CELLS, CELLS, strict=True)), CELLS | {"index": index}])
    )
    assert ask(model_vqa_mmbench, folder, path)[0] == 0
    (image,) = (path.parent / "mmbench").iterdir()
    assert image.suffix == ".jpg"
    assert read_answers(folder / "answers.jsonl")[0]["question_id"] == index


def test_a_question_without_options_is_asked_in_all_rounds_too(folder, fake):
    path = folder / "mmbench.tsv"
    path.write_text(
        "\n".join("\t".join(row.values()) for row in [dict(zip(CELLS, CELLS, strict=True)), CELLS | {"A": ""}])
    )
    assert ask(model_vqa_mmbench, folder, path, "--all-rounds")[0] == 0
    assert [answer["question_id"] for answer in read_answers(folder / "answers.jsonl")] == [9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"question_id": ' + b"1" * 5000 + b', "text": "x"}', "line 1: not JSON (a number with thousands of digits)"),
        (b"[" * 100_000, "not JSON (nested too deeply)"),
        (b'{"question_id": 1, "text": ' + b"[" * 100_000 + b"}", "line 1: not JSON (nested too deeply)"),
        (b"\xff\xfe\x00", "byte 0 is not UTF-8"),
        (b"[1, 2]", "record 0: found 1, expected an object"),
        (b'"text"', "line 1: found 'text', expected an object"),
    ],
)
def test_a_file_that_is_none(folder, fake, capsys, content, message):
    path = folder / "questions.jsonl"
    path.write_bytes(content)
    code, answers = ask(model_vqa_loader, folder, path)
    error = capsys.readouterr().err
    assert (code, answers.exists()) == (2, False)
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("path", ["none.jsonl", "a" * 5000, "", "nul\0.jsonl", "images"])
def test_a_question_file_that_cannot_be_looked_up(folder, fake, capsys, monkeypatch, path):
    monkeypatch.chdir(folder)
    assert ask(model_vqa, folder, path)[0] == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("image", ["none.png", "A" * 5000, "a\0b.png", HALF, "../images", "0.png/1.png", "locked.png"])
def test_images_that_cannot_be_looked_up_are_missing(folder, fake, capsys, monkeypatch, image):
    (folder / "images" / "locked.png").touch()
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).endswith("locked.png"))  # tests may run as root
    path = folder / "questions.jsonl"
    path.write_text(json.dumps(LINE | {"question_id": "q", "image": image}))
    code, answers = ask(model_vqa, folder, path)
    error = capsys.readouterr().err
    assert (code, answers.exists()) == (2, False)
    assert "questions.jsonl, line 1: question 'q' needs the image" in error
    assert "(1 missing of 1)" in error
    assert error.count("\n") == 1
    assert len(error) < 1000


@pytest.mark.parametrize("value", VALUES)
def test_the_rule_for_ids(value):
    """One for writing and for reading back: what is accepted comes back from JSON as it was."""
    if value in MEANT["question_id"]:
        made = check_id(VALUES[value], "here")
        assert json.loads(json.dumps(made)) == made
    else:
        with pytest.raises(DataError, match=r"here: field 'question_id' is .*, expected a text or a whole number"):
            check_id(VALUES[value], "here")


def test_a_number_and_its_text_are_one_id(tmp_path):
    questions = [Question(1, "Why?"), Question("1", "Where?")]
    with pytest.raises(DataError, match="question_id 1 stands 2 times"):
        check_questions(questions)
    check_questions(questions, shared_ids=True)
    with pytest.raises(DataError, match="question_id 1 stands 2 times"):
        check_questions([questions[0], Question("1", "Why?")], shared_ids=True)
    answers = answer_questions(FakePredictor(), questions, tmp_path / "a.jsonl")
    assert [answer["question_id"] for answer in answers] == [1, "1"]


def test_questions_with_a_key_may_share_id_and_text(tmp_path):
    """As two questions about two spots of one image may, in official files with ids of their own."""
    questions = [Question("a.jpg", "What is here?", key=key) for key in (5, 6)]
    check_questions(questions)
    answers = answer_questions(FakePredictor(), questions, tmp_path / "a.jsonl")
    assert [answer["metadata"]["key"] for answer in answers] == [5, 6]
    assert len({answer["answer_id"] for answer in answers}) == 2
    assert answer_questions(FakePredictor(), questions, tmp_path / "a.jsonl") == answers
    with pytest.raises(DataError, match="question_id 5 stands 2 times"):
        check_questions([questions[0], questions[0]])


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question(0, f"a{HALF}"), r"question 0: its question has half a surrogate pair \(U\+D83D\) at character 1"),
        (Question(0, "Why?", route_text=HALF), "its route_text has half a surrogate pair"),
        (Question(0, "Why?", candidates=("a", HALF)), "its candidate 1 has half a surrogate pair"),
        (Question(0, "Why?", candidates=("a", " ")), "its candidate 1 is ' ', expected a text that is not blank"),
        (Question(0, "Why?", route_text=3), "its route_text is 3, expected a text"),
        (Question(0, "<image> or <image>?", images=("a.png",)), "2 <image> marks for 1 images"),
        (Question(0, "<image>?"), "1 <image> marks for 0 images"),
    ],
)
def test_what_cannot_be_asked(question, message):
    with pytest.raises(DataError, match=message):
        check_questions([question])


def test_half_a_surrogate_pair_as_a_command(tmp_path):
    """The message is printed, too, wherever it goes."""
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"question_id": HALF, "text": "Why?"}))
    command = [
        sys.executable,
        "-m",
        "llava_mocle.evaluation.model_vqa",
        "--model-path",
        "m",
        "--question-file",
        str(path),
    ]
    done = subprocess.run(
        [*command, "--answers-file", "a.jsonl"],
        capture_output=True,
        cwd=Path(__file__).parents[2],
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert b"line 1: field 'question_id' is '\\ud83d', which has half a surrogate pair" in done.stderr
    assert b"Traceback" not in done.stderr
