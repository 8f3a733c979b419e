"""LLaVA's other programs: their files and flags, through the one runner."""

import argparse
import base64
import io
import json
from types import SimpleNamespace

import pytest
from PIL import Image

from llava_mocle.errors import DataError
from llava_mocle.evaluation import model_vqa, model_vqa_loader, model_vqa_mmbench, model_vqa_science
from llava_mocle.evaluation.answering.file import FIELDS, read_answers
from llava_mocle.evaluation.model_vqa_science import read_questions
from tests.inference import tiny

LETTER = "\nAnswer with the option's letter from the given choices directly."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    base = tiny.write_base(folder / "base")
    tiny.write_checkpoint(folder / "model", base, tiny.write_encoder(folder / "encoder"))
    tiny.write_images(folder / "images", 2)
    return folder / "model"


def flags(model, question_file, answers_file, *more):
    return [
        *("--model-path", str(model), "--image-folder", str(model.parent / "images")),
        *("--question-file", str(question_file), "--answers-file", str(answers_file)),
        *("--max_new_tokens", "4", "--conv-mode", "vicuna_v1", "--device", "cpu", "--temperature", "0", *more),
    ]


def png() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (10, 200, 30)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def table(path, rows):
    columns = ["index", "question", "hint", "A", "B", "C", "D", "image"]
    lines = ["\t".join(columns), *("\t".join(row[column] for column in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_loader_is_the_same_program_with_shorter_answers(model, tmp_path, capsys):
    """LLaVA's MME file has two questions an image, with its name for an id."""
    lines = [
        {"question_id": "code/0.png", "image": "0.png", "text": f"{asked}\nAnswer with one word.", "category": "code"}
        for asked in ("Is it red?", "Is it blue?")
    ]
    path, whole = tmp_path / "mme.jsonl", tmp_path / "whole.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [word for word in flags(model, path, whole) if word not in ("--max_new_tokens", "4")]
    assert model_vqa_loader.main(words) == 0
    assert [answer["question_id"] for answer in read_answers(whole)] == ["code/0.png"] * 2
    assert all("max_new_tokens=128 " in answer["metadata"]["generation"] for answer in read_answers(whole))
    for chunk in range(2):
        more = ("--num-chunks", "2", "--chunk-idx", str(chunk), "--max_new_tokens", "128")
        assert model_vqa.main(flags(model, path, tmp_path / f"{chunk}.jsonl", *more)) == 0
    assert b"".join((tmp_path / f"{chunk}.jsonl").read_bytes() for chunk in range(2)) == whole.read_bytes()
    path.write_text((json.dumps(lines[0]) + "\n") * 2)
    assert model_vqa_loader.main(words) == 2
    assert "question_id 'code/0.png' stands 2 times" in capsys.readouterr().err


def test_science_rows(model, tmp_path):
    rows = [
        {"id": "5", "image": "0.png", "conversations": [{"from": "human", "value": "<image>\nWhich?\nA. x\nB. y"}]},
        {"id": "7", "conversations": [{"from": "human", "value": "Context: é\nWhy?"}, {"from": "gpt", "value": "A"}]},
    ]
    path = tmp_path / "science.json"
    path.write_text(json.dumps(rows))
    assert model_vqa_science.main(flags(model, path, tmp_path / "a.jsonl", "--single-pred-prompt")) == 0
    answers = read_answers(tmp_path / "a.jsonl")
    assert [answer["question_id"] for answer in answers] == ["5", "7"]
    assert [answer["prompt"] for answer in answers] == [
        "<image>\nWhich?\nA. x\nB. y" + LETTER,
        "Context: é\nWhy?" + LETTER,
    ]


def test_a_science_row_asks_its_first_question_with_its_own_images(tmp_path):
    def said(*pairs):
        return [{"from": role, "value": text} for role, text in pairs]

    two = said(("human", "<image>\nOne?"), ("gpt", "A"), ("human", "<image>\nTwo?"))
    rows = [
        {"id": 1, "image": ["0.png", "1.png"], "conversations": two},
        {"id": 2, "image": "0.png", "conversations": said(("gpt", "Hello!"), ("human", "No mark?"), ("gpt", ""))},
        {"id": 3, "image": "1.png", "conversations": said(("human", "First?"), ("gpt", "A"))},
        {"id": 4, "image": "1.png", "conversations": [*said(("human", "First?"), ("gpt", "A")), two[2]]},
    ]
    path = tmp_path / "science.json"
    path.write_text(json.dumps(rows))
    args = SimpleNamespace(question_file=path, image_folder="images", single_pred_prompt=False)
    asked = [(question.prompt, [image.name for image in question.images]) for question in read_questions(args)]
    assert asked == [
        ("<image>\nOne?", ["0.png"]),
        ("<image>\nNo mark?", ["0.png"]),  # LLaVA shows the image whether or not a mark says so
        ("<image>\nFirst?", ["1.png"]),
        ("First?", []),
    ]
    for turns, image, message in (
        (two, "0.png", r"row 0 \(id 9\): 2 <image> tags for 1 images"),
        (said(("gpt", "Hello!")), None, r"row 0 \(id 9\): no human turn"),
        (said(("human", "a \ud83d")), None, r"row 0 \(id 9\), conversations\[0\].value: found half a surrogate pair"),
    ):
        path.write_text(json.dumps([{"id": 9, "image": image, "conversations": turns}]))
        with pytest.raises(DataError, match=message):
            read_questions(args)


def test_a_science_file_of_another_shape(model, tmp_path, capsys):
    path = tmp_path / "problems.json"
    path.write_text('{"1": {}}')
    assert model_vqa_science.main(flags(model, path, tmp_path / "a.jsonl")) == 2
    assert "problems.json: a dict, expected a list of objects" in capsys.readouterr().err


def test_mmbench_rounds(model, tmp_path):
    row = {"index": "241", "question": "Which one?", "hint": "nan", "A": "cat", "B": "dog", "C": "", "D": "nan"}
    other = row | {"index": "9", "hint": "Look.", "C": "cow", "D": "hen"}
    path = table(tmp_path / "mmbench.tsv", [row | {"image": png()}, other | {"image": png()}])
    more = ("--all-rounds", "--single-pred-prompt", "--lang", "cn")
    assert model_vqa_mmbench.main(flags(model, path, tmp_path / "a.jsonl", *more)) == 0
    answers = read_answers(tmp_path / "a.jsonl")
    assert [answer["question_id"] for answer in answers] == [241, "241-1", 9, "9-1", "9-2", "9-3"]
    # LLaVA's record: its fields in its order; the options as they stand in the round, and the letters they came from.
    assert list(answers[5]) == [
        *("question_id", "round_id", "prompt", "text", "options", "option_char", "answer_id", "model_id", "metadata")
    ]
    assert [answer["round_id"] for answer in answers] == [0, 1, 0, 1, 2, 3]
    assert (answers[0]["options"], answers[0]["option_char"]) == (["cat", "dog"], ["A", "B"])
    assert (answers[5]["options"], answers[5]["option_char"]) == (["hen", "cat", "dog", "cow"], ["D", "A", "B", "C"])
    assert answers[1]["prompt"] == "Which one?\nA. dog\nB. cat\n请直接回答选项字母。"
    assert answers[3]["prompt"] == "Look.\nWhich one?\nA. dog\nB. cow\nC. hen\nD. cat\n请直接回答选项字母。"
    assert Image.open(tmp_path / "mmbench" / "241.jpg").size == (9, 7)


def test_mmbench_answers_can_be_continued(model, tmp_path):
    row = {"question": "Which one?", "hint": "", "A": "cat", "B": "dog", "C": "", "D": "", "image": png()}
    path = table(tmp_path / "mmbench.tsv", [row | {"index": str(number)} for number in range(5)])
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    assert model_vqa_mmbench.main(flags(model, path, whole)) == 0
    assert [answer["question_id"] for answer in read_answers(whole)] == [0, 1, 2, 3, 4]
    assert model_vqa_mmbench.main(flags(model, path, parts, "--limit", "2")) == 0
    assert parts.read_bytes() == b"".join(whole.read_bytes().splitlines(keepends=True)[:2])
    # A killed run leaves answers without the fields of a round, and a last line cut short.
    plain = {key: value for key, value in read_answers(whole)[2].items() if key in FIELDS}
    with parts.open("a", encoding="utf-8") as file:
        file.write(json.dumps(plain, ensure_ascii=False) + "\n" + '{"question_id": 3, "pro')
    assert model_vqa_mmbench.main(flags(model, path, parts)) == 0
    assert parts.read_bytes() == whole.read_bytes()
    # An earlier, longer file keeps all its answers.
    assert model_vqa_mmbench.main(flags(model, path, parts, "--limit", "1")) == 0
    assert parts.read_bytes() == whole.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir() if "parts" in file.name) == ["parts.jsonl"]


def test_mmbench_options_end_at_the_first_that_is_missing(tmp_path):
    """As in LLaVA's program, which asks the question without what stands behind."""
    row = {"index": "1a", "question": "Which?", "hint": "None", "A": "cat", "B": "None", "C": "dog", "D": ""}
    path = table(tmp_path / "mmbench.tsv", [row | {"image": png()}])
    args = argparse.Namespace(question_file=str(path), all_rounds=False, single_pred_prompt=False, lang="en")
    (question,) = model_vqa_mmbench.read_questions(args)
    assert (question.prompt, question.options) == ("Which?\nA. cat", ("cat",))
    assert question.question_id == "1a"  # no number


def test_an_mmbench_table_without_a_column(tmp_path):
    path = tmp_path / "mmbench.tsv"
    path.write_text("index\tquestion\n1\tWhich?\n")
    args = argparse.Namespace(question_file=str(path), all_rounds=False, single_pred_prompt=False, lang="en")
    with pytest.raises(DataError, match=r"mmbench\.tsv, record 0: no 'image', only index, question"):
        model_vqa_mmbench.read_questions(args)
