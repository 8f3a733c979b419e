"""Records of parquet files, and files that hold none."""

import pytest

from llava_mocle.data.formats.parquet import image_bytes, parquet_records
from llava_mocle.errors import DataError
from tests.data.formats.official_releases import write_parquet


def test_records_of_all_files_in_order(tmp_path):
    # More records than are read at once.
    write_parquet(tmp_path / "1.parquet", [(b"x", f"q{number}", None) for number in range(70)])
    write_parquet(tmp_path / "2.parquet", [(None, "ä", "b")])
    records = list(parquet_records([tmp_path / "1.parquet", tmp_path / "2.parquet"], "image", "question"))
    assert [record["question"] for _, record in records] == [*(f"q{number}" for number in range(70)), "ä"]
    assert records[69][0] == f"{tmp_path}/1.parquet, record 69"
    assert records[70] == (f"{tmp_path}/2.parquet, record 0", {"image": None, "question": "ä"})
    assert [image_bytes(record, place) for place, record in records[69:]] == [b"x", None]


def test_wrong_files(tmp_path):
    write_parquet(tmp_path / "1.parquet", [(b"x", "q", "a")])
    with pytest.raises(DataError, match=r"1\.parquet: no column 'text', only image, question, answer"):
        list(parquet_records([tmp_path / "1.parquet"], "text"))
    (tmp_path / "2.parquet").write_bytes((tmp_path / "1.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"2\.parquet: cannot be read as parquet \(.*\); fetch the file again"):
        list(parquet_records([tmp_path / "2.parquet"], "question"))


@pytest.mark.parametrize("value", ["a.jpg", {"bytes": "text"}])
def test_a_column_that_holds_no_images(value):
    with pytest.raises(DataError, match=r"here: field 'image' is .*, expected an image's bytes"):
        image_bytes({"image": value}, "here")
