from pathlib import Path

import pytest

from llava_mocle.data.formats.llava_150k import Llava150kFormat, LlavaConversation, LlavaDetail, LlavaReason
from llava_mocle.errors import DataError
from tests.data.formats.instruct_rows import asked, made, said, write_images
from tests.data.formats.official_releases import write_json

IMAGE = "000000000042.jpg"


def turns(*texts: str) -> list[dict]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def release(tmp_path: Path, form: Llava150kFormat, *conversations: list[dict], image: str = IMAGE) -> Path:
    source = tmp_path / "official"
    records = [{"id": "000000000042", "image": image, "conversations": made} for made in conversations]
    write_json(source / form.file, records)
    write_images(source / "coco/train2017", IMAGE)
    return source


@pytest.mark.parametrize("form", [LlavaConversation(), LlavaDetail(), LlavaReason()])
def test_first_exchange_only(tmp_path: Path, form: Llava150kFormat) -> None:
    source = release(
        tmp_path,
        form,
        turns("What is it?\n<image>", "A Bus.\nIt is (very) red.", "And that?", "A car."),
        turns("<image>\nOù est-ce ?", "À Paris."),
        turns("<image>", "No question."),
        turns("<image>\nNo answer?", " "),
    )
    rows, left_out = made(form, source)
    # Texts stay as they are; the same record id twice gives two rows.
    assert [(row["id"], asked(row), said(row)) for row in rows] == [
        (f"{form.name}/0", "What is it?", "A Bus.\nIt is (very) red."),
        (f"{form.name}/1", "Où est-ce ?", "À Paris."),
    ]
    assert {row["image"] for row in rows} == {f"coco/train2017/{IMAGE}"}
    assert left_out == {"its question is empty": 1, "its answer is empty": 1}
    assert made(form, source, variants=3)[0] == made(form, source, seed=5)[0] == rows


def test_missing_image(tmp_path: Path) -> None:
    form = LlavaDetail()
    with pytest.raises(DataError, match="no row of llava_detail can be made of it"):
        made(form, release(tmp_path, form, turns("<image>\nWhat?", "That."), image="000000000043.jpg"))


def test_wrong_turns(tmp_path: Path) -> None:
    form = LlavaReason()
    with pytest.raises(DataError, match="record 0: 1 turns, expected a question and its answer"):
        made(form, release(tmp_path, form, turns("<image>\nWhat?")))
    with pytest.raises(DataError, match="field 'from' is 'gpt', expected human"):
        made(form, release(tmp_path, form, turns("What?", "That.")[::-1]))
