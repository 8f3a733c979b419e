"""Miniature official releases, and the rows that are made of them.

Each release writes its files into a folder, with train and test records.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from llava_mocle.data.formats.format import Format, MakeOptions, Row
from llava_mocle.data.formats.make import MadeRows, make_rows


def picture(shade: int, kind: str = "PNG") -> bytes:
    """The bytes of a picture of 4 x 4 pixels; another shade gives other bytes."""
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(stream, kind)
    return stream.getvalue()


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_json(path: Path, content: Any) -> None:
    write(path, json.dumps(content, ensure_ascii=False).encode())


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def write_parquet(path: Path, records: list[tuple[bytes | None, str | None, str | None]]) -> None:
    """(image, question, answer) as Hugging Face's `datasets` writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("question", pa.string()), ("answer", pa.string())])
    rows = [
        {"image": None if data is None else {"bytes": data, "path": None}, "question": question, "answer": answer}
        for data, question, answer in records
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema), path)


def vqa_rad_record(qid: str, phrase: str, image: str, question: str, answer: Any, kind: str = "OPEN") -> dict[str, Any]:
    return {
        "qid": qid,
        "phrase_type": phrase,
        "image_name": image,
        "question": question,
        "answer": answer,
        "answer_type": kind,
        "question_type": "PRES",
        "image_organ": "CHEST",
    }


def vqa_rad(source: Path) -> None:
    """The authors' form."""
    records = [
        vqa_rad_record("1", "freeform", "a.jpg", "Is there a fracture?", "Yes", "CLOSED"),
        vqa_rad_record("2", "para", "a.jpg", "How many ribs are broken?", 2),
        vqa_rad_record("3", "test_freeform", "a.jpg", "Where is it?", "Left"),
        vqa_rad_record("4", "test_para", "b.jpg", "Which side?", "Left"),
        vqa_rad_record("5", "freeform", "b.jpg", "Größe des Herzens?", "vergrößert – 心"),
        vqa_rad_record("6", "freeform", "b.jpg", "Which  SIDE?", "Left"),
        vqa_rad_record("7", "freeform", "gone.jpg", "Is it there?", "No", "CLOSED"),
        vqa_rad_record("8", "freeform", "a.jpg", "What is it?", " "),
        vqa_rad_record("9", "freeform", "a.jpg", "", "No", "CLOSED"),
    ]
    write_json(source / "VQA_RAD Dataset Public.json", records)
    write(source / "VQA_RAD Image Folder/a.jpg", picture(1, "JPEG"))
    write(source / "VQA_RAD Image Folder/b.jpg", picture(2, "JPEG"))


def slake_record(qid: int, image: str, question: str, answer: str, language: str = "en") -> dict[str, Any]:
    return {
        "img_id": 1,
        "img_name": image,
        "question": question,
        "answer": answer,
        "q_lang": language,
        "location": "Lung",
        "modality": "X-Ray",
        "answer_type": "CLOSED" if answer in ("Yes", "No") else "OPEN",
        "base_type": "vqa",
        "content_type": "Abnormality",
        "triple": ["vhead", "_", "_"],
        "qid": qid,
    }


def slake(source: Path) -> None:
    """With imgs.zip. Image 4 of the training split is image 3 of the test split."""
    train = [
        slake_record(0, "xmlab1/source.jpg", "Which organs are there?", "Heart, Lung"),
        slake_record(1, "xmlab1/source.jpg", "肺健康吗?", "不", "zh"),
        slake_record(2, "xmlab2/source.jpg", "Is the lung healthy?", "No"),
        slake_record(3, "xmlab9/source.jpg", "Is it there?", "No"),
        slake_record(4, "xmlab2/source.jpg", "What is it?", ""),
        slake_record(5, "xmlab4/source.jpg", "Is the lung healthy?", "Yes"),
    ]
    test = [
        slake_record(9, "xmlab3/source.jpg", "Is the lung healthy?", "Yes"),
        slake_record(10, "xmlab3/source.jpg", "肺健康吗?", "健康", "zh"),
    ]
    write_json(source / "train.json", train)
    write_json(source / "test.json", test)
    shades = {1: 1, 2: 2, 3: 3, 4: 3}
    images = {f"imgs/xmlab{number}/source.jpg": picture(shade, "JPEG") for number, shade in shades.items()}
    write_zip(source / "imgs.zip", images)


def pathvqa(source: Path) -> None:
    write_parquet(
        source / "data/train-00000-of-00002.parquet",
        [
            (picture(1, "JPEG"), "where are liver stem cells located?", "in the canals of hering"),
            (picture(1, "JPEG"), "are they stained?", "yes"),
            (picture(2), "what is shown?", None),
            (None, "what is shown?", "a cell"),
            (b"no image", "what is shown?", "a cell"),
        ],
    )
    write_parquet(
        source / "data/train-00001-of-00002.parquet",
        [(picture(3), "is this seen at autopsy?", "no"), (picture(4), "ist dies ein Ödem?", "ja")],
    )
    write_parquet(source / "data/test-00000-of-00001.parquet", [(picture(3), "Is this seen at autopsy?", "yes")])


def geo_row(image: str, question: str, answer: str) -> dict[str, Any]:
    return {
        "image": image,
        "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}],
    }


GEO_TEST_PROMPT = (
    "\nFirst perform reasoning, then finally select the question from the choices in the following format: Answer: "
    "xxx.\nQuestion:Angle 1 is 40.0, then angle 2 is ()\nChoices:\nA:40°\nB:80°"
)


def geo170k(source: Path) -> None:
    """images.zip holds one figure of the test split under a name of the training split too."""
    alignment = [
        geo_row("geo3k/1.png", "What does the figure show?", "A triangle."),
        geo_row("geo3k/gone.png", "What does the figure show?", "A circle."),
    ]
    tuning = [
        geo_row("geoqa_plus/2.png", "∠A = 40°. Find ∠B.", "Answer: 50°"),
        geo_row("geoqa_plus/3.png", GEO_TEST_PROMPT, "Answer: B"),
        geo_row("geoqa_plus/3.png", "Is it a right angle?", "yes"),
        geo_row("geoqa_plus/2.png", "Find ∠C.", ""),
        geo_row("test/0.png", "Find ∠D.", "Answer: A"),
    ]
    write_json(source / "alignment.json", alignment)
    write_json(source / "qa_tuning.json", tuning)
    figures = {
        "geo3k/1.png": picture(1),
        "geoqa_plus/2.png": picture(2),
        "geoqa_plus/3.png": picture(3),
        "test/0.png": picture(3),
    }
    write_zip(source / "images.zip", {f"images/{name}": data for name, data in figures.items()})
    question = {"question_id": 0, "image": "test/0.png", "text": GEO_TEST_PROMPT}
    write(source / "test_questions.jsonl", json.dumps(question).encode())
    write(source / "test_answers.jsonl", b'{"question_id": 0, "text": "B"}\n')


def llava_row(row_id: Any, image: str | None, answer: str = "yes") -> dict[str, Any]:
    mark = "" if image is None else "<image>\n"
    row = {
        "id": row_id,
        "conversations": [{"from": "human", "value": f"{mark}Question?"}, {"from": "gpt", "value": answer}],
    }
    return row if image is None else {**row, "image": image}


def llava_665k(source: Path) -> None:
    rows = [
        llava_row("1", "coco/train2017/1.jpg"),
        llava_row("1", "coco/train2017/1.jpg", "no"),
        llava_row("1-2", "gqa/images/2.jpg"),
        llava_row("book", "ocr_vqa/images/book.jpg"),
        llava_row("scan", "ocr_vqa/images/scan.jpg"),
        llava_row("empty", "ocr_vqa/images/empty.jpg"),
        llava_row("gone", "ocr_vqa/images/gone.jpg"),
        llava_row("elsewhere", "sam/images/1.jpg"),
        llava_row("wgByO4Y_0", None, "text only: ünïcode"),
        llava_row("text", "textvqa/train_images/t.jpg", ""),
        llava_row(7, "vg/VG_100K/7.jpg"),
        llava_row("8", "vg/VG_100K_2/8.jpg"),
    ]
    write_json(source / "llava_v1_5_mix665k.json", rows)
    for shade, name in enumerate(
        (
            "coco/train2017/1.jpg",
            "gqa/images/2.jpg",
            "textvqa/train_images/t.jpg",
            "vg/VG_100K/7.jpg",
            "vg/VG_100K_2/8.jpg",
        )
    ):
        write(source / name, picture(shade, "JPEG"))
    write(source / "ocr_vqa/images/book.gif", picture(9, "GIF"))
    write(source / "ocr_vqa/images/scan.png", picture(10))
    write(source / "ocr_vqa/images/scan.jpg", b"")
    write(source / "ocr_vqa/images/empty.jpg", b"")


def made(form: Format, source: Path, tmp_path: Path) -> tuple[list[Row], dict[str, int], MadeRows]:
    """The rows of a format, {reason: records left out}, and all counts. Images go to `tmp_path / "images"`."""
    output = tmp_path / "rows.json"
    counts = make_rows(form, source, tmp_path / "images", output, MakeOptions())
    rows = json.loads(output.read_text(encoding="utf-8"))
    assert counts.rows == len(rows) == len({row["id"] for row in rows})
    return rows, {what.reason: count for what, count in counts.left_out.items()}, counts


def short(rows: list[Row]) -> list[tuple[str, ...]]:
    """(id, image, each turn's text) of each row."""
    return [(row["id"], row["image"], *(turn["value"] for turn in row["conversations"])) for row in rows]


RELEASES = {
    "vqa_rad": vqa_rad,
    "slake": slake,
    "pathvqa": pathvqa,
    "geo170k": geo170k,
    "llava_665k": llava_665k,
}
