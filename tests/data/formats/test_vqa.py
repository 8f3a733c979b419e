import shutil
from pathlib import Path

import pytest

from llava_mocle.data.formats.instruction_templates import TEMPLATES
from llava_mocle.data.formats.vqa import CocoVqa, CocoVqg, OkVqa, OkVqg, VqaFormat
from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.okvqa import OkVqa as OkVqaTask
from llava_mocle.evaluation.tasks.vqav2 import VqaV2Val
from tests.data.formats.instruct_rows import asked, exchanges, made, said, write_images
from tests.data.formats.official_releases import write_json
from tests.evaluation.tasks.official_files import FILES, data_root

IMAGE = "COCO_train2014_000000000042.jpg"


def release(tmp_path: Path, form: VqaFormat) -> Path:
    source = tmp_path / "official"
    questions = [
        {"question_id": 42000, "image_id": 42, "question": "Is it day?"},
        {"question_id": 42001, "image_id": 42, "question": 'What does "Café" sell?'},
        {"question_id": 43000, "image_id": 43, "question": "Where is the image?"},
        {"question_id": 42002, "image_id": 42, "question": "Has nobody answered?"},
    ]
    answers = {
        42000: ["yes"] * 9 + ["no"],
        42001: ["crêpes"] * 2,
        43000: ["nowhere"],
        42002: ["", " "],
    }
    annotations = [
        {"question_id": key, "image_id": key // 1000, "answers": [{"answer": text, "answer_id": 1} for text in texts]}
        for key, texts in reversed(answers.items())
    ]
    write_json(source / form.questions, {"data_subtype": "train2014", "questions": questions})
    write_json(source / form.annotations, {"data_subtype": "train2014", "annotations": annotations})
    write_images(source / "coco/train2014", IMAGE)
    return source


@pytest.mark.parametrize(("form", "data_source"), [(CocoVqa(), "VQAv2"), (OkVqa(), "OKVQA")])
def test_questions(tmp_path: Path, form: VqaFormat, data_source: str) -> None:
    source = release(tmp_path, form)
    rows, left_out = made(form, source)
    assert [row["id"].split("/")[:2] for row in rows] == [[form.name, "42000"], [form.name, "42001"]]
    assert {row["image"] for row in rows} == {f"coco/train2014/{IMAGE}"}
    assert {row["data_source"] for row in rows} == {data_source}
    assert left_out == {"its image is not there": 1, "its answer is empty": 1}
    day, cafe = exchanges(form, source, 10).values()
    assert {answer for _, answer in day} <= {"yes", "no"}
    assert [request for request, _ in day] == [
        template.replace("{Question}", "is it day?") for template in TEMPLATES["VQA"]
    ]
    assert cafe[3] == ("Q: what does café sell? A:", "crêpes")


@pytest.mark.parametrize("form", [CocoVqg(), OkVqg()])
def test_questions_to_be_asked(tmp_path: Path, form: VqaFormat) -> None:
    source = release(tmp_path, form)
    day, cafe = exchanges(form, source, 6).values()
    assert {said for _, said in day} == {"is it day?"}
    assert {request.count("yes") + request.count(": no") + request.count('"no"') for request, _ in day} == {1}
    assert cafe[0] == (
        "Given the image, generate a question whose answer is: crêpes. Question:",
        "what does café sell?",
    )


def test_a_seed_reaches_the_rarer_answer(tmp_path: Path) -> None:
    """One annotator of ten said "no": that none of 100 seeds draws it has a chance of 0.9 ** 100 = 3e-5."""
    source = release(tmp_path, CocoVqa())
    assert {said(made(CocoVqa(), source, seed=seed)[0][0]) for seed in range(100)} == {"yes", "no"}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    source = release(tmp_path, CocoVqa())
    output = tmp_path / "coco_vqa.jsonl"
    written = []
    for seed in (3, 3, 4):
        made(CocoVqa(), source, variants=2, seed=seed)
        written.append(output.read_bytes())
    assert written[0] == written[1] != written[2]


def test_wrong_files(tmp_path: Path) -> None:
    source = release(tmp_path, CocoVqa())
    path = source / CocoVqa.annotations
    right = path.read_text()
    path.write_text(right.replace('"question_id": 42001', '"question_id": 42009'))
    with pytest.raises(DataError, match="record 1: question 42001 has no annotation in"):
        made(CocoVqa(), source)
    path.write_text(right.replace("train2014", "val2014"))
    with pytest.raises(DataError, match="data_subtype is 'val2014', expected 'train2014'"):
        made(CocoVqa(), source)
    path.unlink()
    with pytest.raises(DataError, match=r"lacks vqav2/v2_mscoco_train2014_annotations\.json"):
        made(CocoVqa(), source)


@pytest.mark.parametrize(
    ("form", "task", "folder", "questions", "annotations"),
    [
        (
            CocoVqa(),
            VqaV2Val(),
            "vqav2",
            "v2_OpenEnded_mscoco_val2014_questions.json",
            "v2_mscoco_val2014_annotations.json",
        ),
        (OkVqg(), OkVqaTask(), "okvqa", "OpenEnded_mscoco_val2014_questions.json", "mscoco_val2014_annotations.json"),
    ],
)
def test_no_row_is_of_the_benchmark(tmp_path, form, task, folder, questions, annotations) -> None:
    source = release(tmp_path, form)
    rows, _ = made(form, source)
    items = task.items(data_root(tmp_path, folder), "instructblip")
    # COCO gives a number once over all splits of a year; a photo's name tells its split.
    tested = {(path.name, item.question.prompt.lower()) for item in items for path in item.question.images}
    assert not tested & {(Path(row["image"]).name, asked(row).lower()) for row in rows}
    assert not {name for name, _ in tested} & {Path(row["image"]).name for row in rows}
    # The benchmark's own files in place of the training files are refused.
    shutil.copy(FILES / folder / questions, source / form.questions)
    shutil.copy(FILES / folder / annotations, source / form.annotations)
    with pytest.raises(DataError, match="data_subtype is 'val2014', expected 'train2014'"):
        made(form, source)
