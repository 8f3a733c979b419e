from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_mocle.data.formats.capfilt import WebCapFilt
from llava_mocle.data.formats.instruction_templates import TEMPLATES
from llava_mocle.errors import DataError
from tests.data.formats.instruct_rows import exchanges, made, said, write_images
from tests.data.formats.official_releases import write_json


def shards(tmp_path: Path) -> Path:
    source = tmp_path / "official"
    for shard, records in {
        "00000": [
            ("000000000", "A Dog (brown)", "success"),
            ("000000001", "gone", "failed_to_download"),
            ("000000002", None, "success"),
        ],
        "00001": [("000010000", "ein Café", "success"), ("000010001", "deleted later", "success")],
    }.items():
        write_images(source / "capfilt" / shard, *(f"{key}.jpg" for key, _, _ in records if not key.endswith("1")))
        keys, texts, statuses = zip(*records, strict=True)
        table = {"url": [f"http://{key}" for key in keys], "key": keys, "caption": texts, "status": statuses}
        pq.write_table(pa.table(table), source / f"capfilt/{shard}.parquet")
    return source


def test_shards_of_img2dataset(tmp_path: Path) -> None:
    source = shards(tmp_path)
    rows, left_out = made(WebCapFilt(), source)
    assert [(row["image"], said(row)) for row in rows] == [
        ("capfilt/00000/000000000.jpg", "a dog brown"),
        ("capfilt/00001/000010000.jpg", "ein café"),
    ]
    assert left_out == {"its image is not there": 2, "its answer is empty": 1}
    assert exchanges(WebCapFilt(), source, 13)["000000000"] == [
        (template, "a dog brown") for template in TEMPLATES["CAP"]
    ]


def test_a_list_with_paths(tmp_path: Path) -> None:
    source = tmp_path / "official"
    records = [{"image": "cc/1.jpg", "caption": "A bird"}, {"image": "cc/2.jpg", "caption": "lost"}]
    write_json(source / "capfilt/annotation.json", records)
    write_images(source / "capfilt/cc", "1.jpg")
    rows, left_out = made(WebCapFilt(), source)
    assert [(row["id"].split("/")[1], row["image"], said(row)) for row in rows] == [("0", "capfilt/cc/1.jpg", "a bird")]
    assert left_out == {"its image is not there": 1}


def test_wrong_files(tmp_path: Path) -> None:
    source = tmp_path / "official"
    with pytest.raises(DataError, match="lacks capfilt/"):
        made(WebCapFilt(), source)
    write_json(source / "capfilt/annotation.json", [{"url": "http://1", "caption": "a bird"}])
    with pytest.raises(DataError, match="record 0: has a 'url' and no 'image'; fetch the images with img2dataset"):
        made(WebCapFilt(), source)
    write_json(source / "capfilt/annotation.json", [{"image": "../../1.jpg", "caption": "a bird"}])
    with pytest.raises(DataError, match="stays inside its folder"):
        made(WebCapFilt(), source)
    pq.write_table(pa.table({"key": ["0"], "status": ["success"]}), source / "capfilt/00000.parquet")
    with pytest.raises(DataError, match="no column 'caption'"):
        made(WebCapFilt(), source)
