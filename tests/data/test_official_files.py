"""Reading official files: what is forgiven, and how what is not is named."""

from pathlib import Path

import pytest

from llava_mocle.data.official_files import (
    ID,
    annotated,
    coco_image,
    field,
    field_or,
    json_records,
    jsonl_records,
    number_of,
    one_of,
    places,
    read_json,
    read_table,
    read_text,
    streamed_records,
    whole_number,
)
from llava_mocle.errors import DataError


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "file"
    path.write_text('{"a": "é"}\n', encoding="utf-8-sig")
    assert read_json(path) == {"a": "é"}
    assert list(jsonl_records(path)) == [(f"{path}, record 0", {"a": "é"})]
    path.write_text('{"under": [{"a": "é"}]}\n', encoding="utf-8-sig")
    assert list(json_records(path, "under")) == [(f"{path}, record 0", {"a": "é"})]
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


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("a", str),
        (7, ID),
        (True, bool),
        (None, str | None),
        (1.5, str | int | float),
        ({}, dict),
        ([], list[str]),
        (["a", 2], list[ID]),
        (True, object),
    ],
)
def test_fields_of_the_right_kind(value, kind):
    assert field({"key": value}, "key", "place", kind) is value


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (None, str, "field 'key' is None, expected a text; is this"),
        (None, object, "field 'key' is None, expected a value"),
        (7, str, "field 'key' is 7, expected a text"),
        (True, int, "field 'key' is True, expected a whole number"),
        (1.0, int, "field 'key' is 1.0, expected a whole number"),
        (1, bool, "field 'key' is 1, expected true or false"),
        (True, ID, "field 'key' is True, expected a text or a whole number"),
        ([1], ID, r"field 'key' is \[1\], expected a text or a whole number"),
        (7, str | None, "field 'key' is 7, expected a text or null"),
        ("ab", list[str], "field 'key' is 'ab', expected a list"),
        (["a", None], list[str], "field 'key', entry 1, is None, expected a text"),
        ([[]], list[dict], r"field 'key', entry 0, is \[\], expected an object"),
    ],
)
def test_fields_of_another_kind_are_named(value, kind, message):
    with pytest.raises(DataError, match=f"f.json, record 3: {message}"):
        field({"key": value}, "key", "f.json, record 3", kind)


def test_fields_that_some_versions_lack():
    assert field_or({}, "key", "place", str, "other") == "other"
    assert field_or({"key": "a"}, "key", "place", str, "other") == "a"
    with pytest.raises(DataError, match="field 'key' is None"):
        field_or({"key": None}, "key", "place", str, "other")


def test_one_of_several_values():
    assert one_of({"key": 1}, "key", "place", 0, 1) == 1
    with pytest.raises(DataError, match=r"f\.json: field 'key' is 'maybe', expected yes or no; is this"):
        one_of({"key": "maybe"}, "key", "f.json", "yes", "no")


@pytest.mark.parametrize("image_id", [42, "42", "000042"])
def test_the_number_of_a_coco_image_has_twelve_digits(image_id):
    image = coco_image(Path("a"), "COCO_val2014_", {"image_id": image_id}, "here")
    assert image == Path("a/COCO_val2014_000000000042.jpg")


def test_no_number_of_a_coco_image():
    with pytest.raises(DataError, match="here: image_id is 'x1', expected the number of a COCO image"):
        coco_image(Path("a"), "", {"image_id": "x1"}, "here")


def test_records_are_objects_in_a_list(tmp_path):
    assert list(places(tmp_path, [{}, {"a": 1}])) == [
        (f"{tmp_path}, record 0", {}),
        (f"{tmp_path}, record 1", {"a": 1}),
    ]
    with pytest.raises(DataError, match="a dict, expected a list of objects"):
        list(places(tmp_path, {"a": {}}))
    with pytest.raises(DataError, match="record 1: found 'a', expected an object"):
        list(places(tmp_path, [{}, "a"]))


def test_what_annotators_said():
    record = {"answers": ["a", "b"], "none": [], "mixed": ["a", 1], "texts": "ab"}
    assert annotated(record, "answers", "here") == ("a", "b")
    for key, message in (
        ("none", "here: 'none' is \\[\\], expected what the annotators said"),
        ("mixed", "field 'mixed', entry 1, is 1, expected a text"),
        ("texts", "field 'texts' is 'ab', expected a list"),
        ("other", "here: no 'other'"),
    ):
        with pytest.raises(DataError, match=message):
            annotated(record, key, "here")


def test_numbers_are_those_that_fit_into_64_bits():
    """Python refuses to make a number of thousands of digits, with an error of its own."""
    assert [number_of(value) for value in (7, "7", "007", 0)] == [7, 7, 7, 0]
    for value in (-1, "", " 7", "7.0", "\u0667", "\u00b2", "9" * 5000, 10**18, True, None):
        assert number_of(value) is None
    with pytest.raises(DataError, match="place: field 'index' is '999"):
        whole_number({"index": "9" * 5000}, "index", "place")
    with pytest.raises(DataError, match="image_id is '999"):
        coco_image(Path("images"), "", {"image_id": "9" * 5000}, "place")


def test_records_that_are_read_piece_by_piece(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('[{"a": 1}, {"a": 2}]')
    assert list(streamed_records(path)) == list(json_records(path))
    path.write_text('[{"a": 1}, 3]')
    with pytest.raises(DataError, match=r"file\.json, record 1: found 3, expected an object"):
        list(streamed_records(path))
