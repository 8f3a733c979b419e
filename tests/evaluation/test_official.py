"""Reading official files: what is forgiven, and how what is not is named."""

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.official import read_json, read_jsonl, read_table, read_text


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "file"
    path.write_text('{"a": "é"}\n', encoding="utf-8-sig")
    assert read_json(path) == {"a": "é"}
    assert read_jsonl(path) == [{"a": "é"}]
    path.write_text("a\tb\né\t2\n", encoding="utf-8-sig")
    assert read_table(path) == [{"a": "é", "b": "2"}]


def test_what_is_no_text_is_named(tmp_path):
    path = tmp_path / "file"
    path.write_bytes("aé".encode("latin-1"))
    with pytest.raises(DataError, match="file: byte 1 is not UTF-8"):
        read_text(path)
    with pytest.raises(DataError, match="none: no such file"):
        read_text(tmp_path / "none")
    with pytest.raises(DataError, match="Is a directory"):
        read_text(tmp_path)


def test_blank_lines_and_empty_columns_at_the_end_are_forgiven(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('a,b\r\n1,"x\ny"\r\n\r\n2,z,,\r\n3,', encoding="utf-8")
    assert read_table(path, ",") == [{"a": "1", "b": "x\ny"}, {"a": "2", "b": "z"}, {"a": "3", "b": ""}]
    path.write_text("", encoding="utf-8")
    assert read_table(path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n3", "line 3: found 1 columns, expected the header's 2"),
        # The quoted line break makes the second record end on line 4.
        ('a,b\n1,2\n"3\n4"\n', "line 4: found 1 columns"),
        ("a,b\n1,2,3\n", "line 2: found 3 columns"),
    ],
)
def test_rows_of_another_length_are_named(tmp_path, content, message):
    path = tmp_path / "table.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=rf"table\.csv, {message}"):
        read_table(path, ",")
