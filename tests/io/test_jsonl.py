"""JSONL, written and read: what stays as it is, and what is told about a line that is not JSON."""

from pathlib import Path

import pytest

from llava_mocle.errors import ClusterModelError, DataError
from llava_mocle.io.jsonl import parse_jsonl, to_jsonl, write_jsonl

RECORDS = [{"text": "Où ?\u2028图\n"}, {"text": "", "number": 1}]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.jsonl"
    write_jsonl(path, RECORDS)
    text = path.read_text(encoding="utf-8")
    assert text == to_jsonl(RECORDS)
    assert "图" in text
    assert list(parse_jsonl(text, path, "")) == [(f"{path}, line {n}", r) for n, r in enumerate(RECORDS, start=1)]
    assert list(path.parent.iterdir()) == [path]


def test_blank_lines_count_and_are_skipped() -> None:
    assert list(parse_jsonl("\n{}\r\n  \n[1]", "a.jsonl", "")) == [("a.jsonl, line 2", {}), ("a.jsonl, line 4", [1])]
    assert to_jsonl([]) == ""
    assert list(parse_jsonl("", "a.jsonl", "")) == []


@pytest.mark.parametrize("error_class", [DataError, ClusterModelError])
def test_a_line_that_is_not_json(error_class: type[Exception]) -> None:
    lines = parse_jsonl('{}\n{"a":\n', "a.jsonl", "fetch it again", error_class)
    assert next(lines) == ("a.jsonl, line 1", {})
    with pytest.raises(error_class, match=r"^a\.jsonl, line 2: not JSON \(.* at column 6\); fetch it again$"):
        next(lines)
