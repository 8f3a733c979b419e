import shutil
import zipfile
from pathlib import Path

import pytest

from llava_mocle.data.formats.instruction_templates import TEMPLATES, caption_prompt
from llava_mocle.data.formats.ocr_sets import OcrVqa, TextCaps
from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.textvqa import TextVqa, prompt_with_tokens
from tests.data.formats.instruct_rows import asked, exchanges, made, said, write_images
from tests.data.formats.official_releases import write_json
from tests.evaluation.tasks.official_files import FILES, data_root


def covers(tmp_path: Path, **changes) -> Path:
    source = tmp_path / "official"
    cover = {
        "imageURL": "http://books/I/one.jpg",
        "questions": ["Who wrote this?", "Is this a Comic?"],
        "answers": ["Émile Zola", "No"],
        "title": "Germinal",
        "split": 1,
    }
    write_json(
        source / "ocr_vqa/dataset.json",
        {
            "0001": cover | changes,
            "0002": cover | {"imageURL": "http://books/I/two.gif"},
            "0003": cover | {"imageURL": "http://books/I/three.png", "questions": ["What?"], "answers": [""]},
            "0004": cover | {"split": 2},
            "0005": cover | {"split": 3, "questions": ["Which?"], "answers": ["this"]},
            "0006": cover,
        },
    )
    write_images(source / "ocr_vqa/images", "0001.jpg", "0002.gif", "0003.jpg", "0004.jpg", "0005.jpg")
    return source


def test_book_covers(tmp_path: Path) -> None:
    source = covers(tmp_path)
    rows, left_out = made(OcrVqa(), source)
    assert [(row["id"].split("/")[1], row["image"], said(row)) for row in rows] == [
        ("0001-0", "ocr_vqa/images/0001.jpg", "Émile Zola"),
        ("0001-1", "ocr_vqa/images/0001.jpg", "No"),
        ("0002-0", "ocr_vqa/images/0002.gif", "Émile Zola"),
        ("0002-1", "ocr_vqa/images/0002.gif", "No"),
    ]
    assert left_out == {
        "it is of the validation or test split": 3,
        "its answer is empty": 1,
        "its image is not there": 2,
    }
    assert [request for request, _ in exchanges(OcrVqa(), source, 10)["0001-1"]] == [
        template.replace("{Question}", "is this a comic?") for template in TEMPLATES["VQA"]
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": ["one"]}, "cover 0001: 2 questions with 1 answers"),
        ({"split": 4}, "field 'split' is 4, expected 1 or 2 or 3"),
        ({"imageURL": None}, "cover 0001: field 'imageURL' is None"),
    ],
)
def test_wrong_covers(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(OcrVqa(), covers(tmp_path, **changes))


def test_a_list_is_no_file_of_covers(tmp_path: Path) -> None:
    source = covers(tmp_path)
    write_json(source / "ocr_vqa/dataset.json", [])
    with pytest.raises(DataError, match="a list, expected an object with a cover under each key"):
        made(OcrVqa(), source)


def captions(tmp_path: Path, **changes) -> Path:
    source = tmp_path / "official"
    data = [
        {"image_id": "0a1b", "caption_id": 7, "caption_str": "A BOAT named Étoile.", "set_name": "train"} | changes,
        {"image_id": "0c", "caption_id": 8, "caption_str": "A wall.", "set_name": "train"},
        {"image_id": "0d", "caption_id": 9, "caption_str": "A sign.", "set_name": "train"},
    ]
    tokens = [
        {"image_id": "0a1b", "ocr_tokens": ["NORTH", "Étoile"], "ocr_info": []},
        {"image_id": "0c", "ocr_tokens": [], "ocr_info": []},
        {"image_id": "0d", "ocr_tokens": ["x"], "ocr_info": []},
    ]
    write_json(source / "textcaps/TextCaps_0.1_train.json", {"dataset_name": "textcaps", "data": data})
    write_json(source / "textcaps/TextVQA_Rosetta_OCR_v0.2_train.json", {"data": tokens})
    write_images(source / "textvqa/train_images", "0a1b.jpg", "0c.jpg")
    return source


def test_captions_with_ocr_tokens(tmp_path: Path) -> None:
    source = captions(tmp_path)
    rows, left_out = made(TextCaps(), source)
    assert [row["image"] for row in rows] == ["textvqa/train_images/0a1b.jpg", "textvqa/train_images/0c.jpg"]
    assert left_out == {"its image is not there": 1}
    boat, wall = exchanges(TextCaps(), source, 13).values()
    assert boat == [
        (f"OCR tokens: NORTH, Étoile. {template}", "a boat named étoile") for template in TEMPLATES["OCRCAPS"]
    ]
    assert wall == [(f"OCR tokens: . {template}", "a wall") for template in TEMPLATES["OCRCAPS"]]


def test_images_in_the_official_zip(tmp_path: Path) -> None:
    source = captions(tmp_path)
    (source / "textvqa/train_images").rename(tmp_path / "train_images")
    with zipfile.ZipFile(source / "textvqa/train_val_images.zip", "w") as archive:
        archive.write(tmp_path / "train_images/0c.jpg", "train_images/0c.jpg")
    rows, left_out = made(TextCaps(), source, images=tmp_path / "images")
    assert [row["image"] for row in rows] == ["textvqa/train_images/0c.jpg"]
    assert left_out == {"its image is not there": 2}


def test_tokens_as_the_benchmark_writes_them() -> None:
    """Training and TextVQA's evaluation start alike, also with no token and with more than thirty."""
    for tokens in ([], ["a"], [str(number) for number in range(40)]):
        start = prompt_with_tokens("", tokens, "instructblip").removesuffix("Question:  Short answer:")
        assert caption_prompt("A photo of", tokens) == f"{start}A photo of"


def test_wrong_captions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="field 'set_name' is 'val', expected train"):
        made(TextCaps(), captions(tmp_path, set_name="val"))
    with pytest.raises(DataError, match="record 0: image 0e has no OCR tokens in"):
        made(TextCaps(), captions(tmp_path, image_id="0e"))


def test_no_row_is_of_the_benchmark(tmp_path: Path) -> None:
    """TextCaps and TextVQA share photos, one folder for train and val, so only the files tell them apart."""
    source = captions(tmp_path)
    rows, _ = made(TextCaps(), source)
    items = TextVqa().items(data_root(tmp_path, "textvqa"), "instructblip")
    tested = {(path.name, item.question.prompt) for item in items for path in item.question.images}
    assert not tested & {(Path(row["image"]).name, asked(row)) for row in rows}
    # The tokens of val in place of those of train are noticed.
    shutil.copy(
        FILES / "textvqa/TextVQA_Rosetta_OCR_v0.2_val.json",
        source / "textcaps/TextVQA_Rosetta_OCR_v0.2_train.json",
    )
    with pytest.raises(DataError, match=r"has no OCR tokens in .* is that the file of train"):
        made(TextCaps(), source)
