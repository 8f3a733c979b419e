import zipfile
from pathlib import Path

import pytest

from llava_mocle.data.formats.coco import CocoCaptions
from llava_mocle.data.formats.instruction_templates import TEMPLATES
from llava_mocle.errors import DataError
from tests.data.formats.instruct_rows import exchanges, made, write_images
from tests.data.formats.official_releases import write_json

NINE, TEN = "COCO_train2014_000000000009.jpg", "COCO_train2014_000000000010.jpg"


def release(tmp_path: Path, images: tuple[str, ...] = (NINE,)) -> Path:
    source = tmp_path / "official"
    write_json(
        source / "coco/annotations/captions_train2014.json",
        {
            "info": {},
            "images": [{"id": 9, "file_name": NINE}, {"id": 10, "file_name": TEN}],
            "annotations": [
                {"id": 48, "image_id": 9, "caption": "A cat (black) on a Mat."},
                {"id": 49, "image_id": 9, "caption": "Ein Café\n"},
                {"id": 50, "image_id": 10, "caption": "its image is missing"},
                {"id": 51, "image_id": 9, "caption": " . "},
                {"id": 52, "image_id": 9, "caption": "an <image> of an image"},
            ],
        },
    )
    if images:
        write_images(source / "coco/train2014", *images)
    return source


def test_rows(tmp_path: Path) -> None:
    source = release(tmp_path)
    rows, left_out = made(CocoCaptions(), source)
    assert [row["id"].rsplit("/", 1)[0] for row in rows] == ["coco_cap/48", "coco_cap/49"]
    assert {row["image"] for row in rows} == {f"coco/train2014/{NINE}"}
    assert left_out == {"its image is not there": 1, "its answer is empty": 1, "image count": 1}
    assert rows[0].keys() == {"id", "dataset", "task_group", "image", "conversations", "data_source", "template"}
    assert rows[0]["data_source"] == "COCO"


def test_every_template(tmp_path: Path) -> None:
    assert exchanges(CocoCaptions(), release(tmp_path), 13) == {
        "48": [(template, "a cat black on a mat") for template in TEMPLATES["CAP"]],
        "49": [(template, "ein café") for template in TEMPLATES["CAP"]],
    }


def test_images_in_the_official_zip(tmp_path: Path) -> None:
    source = release(tmp_path, images=())
    write_images(tmp_path / "unpacked", NINE)
    with zipfile.ZipFile(source / "coco/train2014.zip", "w") as archive:
        archive.write(tmp_path / "unpacked" / NINE, f"train2014/{NINE}")
    rows, _ = made(CocoCaptions(), source, images=tmp_path / "images")
    assert len(rows) == 2
    packed, unpacked = tmp_path / "images" / rows[0]["image"], tmp_path / "unpacked" / NINE
    assert packed.read_bytes() == unpacked.read_bytes()


def test_a_folder_that_another_dataset_filled_in_part(tmp_path: Path) -> None:
    """With the images folder beside the archive, what is unpacked is not taken for all there is."""
    source = release(tmp_path, images=())
    write_images(tmp_path / "unpacked", NINE, TEN)
    with zipfile.ZipFile(source / "coco/train2014.zip", "w") as archive:
        for name in (NINE, TEN):
            archive.write(tmp_path / "unpacked" / name, f"train2014/{name}")
    write_images(source / "coco/train2014", NINE)
    rows, left_out = made(CocoCaptions(), source)
    assert {Path(row["image"]).name for row in rows} == {NINE, TEN}
    assert "its image is not there" not in left_out


def test_another_split_or_image(tmp_path: Path) -> None:
    source = release(tmp_path)
    path = source / "coco/annotations/captions_train2014.json"
    right = path.read_text()
    path.write_text(right.replace(TEN, "COCO_val2014_000000000010.jpg"))
    with pytest.raises(DataError, match="record 1: file_name is 'COCO_val2014_000000000010"):
        made(CocoCaptions(), source)
    path.write_text(right.replace('"image_id": 10', '"image_id": 11'))
    with pytest.raises(DataError, match="record 2: image_id 11 is none of the file's images"):
        made(CocoCaptions(), source)
