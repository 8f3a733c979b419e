"""LLaVA's 665K rows: ids that repeat, and images that are missing or named otherwise."""

import os

from llava_mocle.data.formats.llava_665k import Llava665K
from tests.data.formats import official_releases as releases
from tests.data.formats.official_releases import made


def test_rows_are_repaired(tmp_path):
    releases.llava_665k(tmp_path / "source")
    rows, left_out, counts = made(Llava665K(), tmp_path / "source", tmp_path)
    assert [(row["id"], row.get("image")) for row in rows] == [
        ("1", "coco/train2017/1.jpg"),
        ("1-3", "coco/train2017/1.jpg"),  # a later row is called 1-2
        ("1-2", "gqa/images/2.jpg"),
        ("book", "ocr_vqa/images/book.gif"),
        ("scan", "ocr_vqa/images/scan.png"),
        ("wgByO4Y_0", None),
        ("7", "vg/VG_100K/7.jpg"),
        ("8", "vg/VG_100K_2/8.jpg"),
    ]
    assert rows[5]["conversations"] == [
        {"from": "human", "value": "Question?"},
        {"from": "gpt", "value": "text only: ünïcode"},
    ]
    assert left_out == {"its image is not there": 3, "empty answer": 1}
    assert counts.official == 12
    assert Llava665K.rows.counts == (665298,)
    # Linked, not copied.
    linked = tmp_path / "images/coco/train2017/1.jpg"
    assert os.path.samefile(linked, tmp_path / "source/coco/train2017/1.jpg")


def test_images_stay_where_they_are(tmp_path):
    releases.llava_665k(tmp_path / "images")
    files = sorted(tmp_path.rglob("*"))
    made(Llava665K(), tmp_path / "images", tmp_path)
    assert sorted(tmp_path.rglob("*")) == sorted([*files, tmp_path / "rows.json"])
