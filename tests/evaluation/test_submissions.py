import json

import openpyxl
import pytest

from llava_mocle.evaluation.submissions import write_submission


def test_json_and_jsonl(tmp_path):
    path = write_submission(tmp_path / "new/a.json", {"é": [1, None]})
    assert path.read_text(encoding="utf-8") == '{"é": [1, null]}'
    path = write_submission(tmp_path / "new/b.jsonl", [{"a": "é\n"}, {"b": 2}])
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [{"a": "é\n"}, {"b": 2}]
    assert lines[-1] == ""
    assert write_submission(path, []).read_text() == ""


def test_a_spreadsheet_drops_what_it_cannot_hold(tmp_path):
    path = write_submission(tmp_path / "new/a.xlsx", [{"n": 1, "text": "é\x0b"}, {"n": 2, "text": None}])
    rows = openpyxl.load_workbook(path).active.iter_rows(values_only=True)
    assert list(rows) == [("n", "text"), (1, "é"), (2, None)]
    assert list(openpyxl.load_workbook(write_submission(path, [])).active.iter_rows(values_only=True)) == []


def test_a_value_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = write_submission(tmp_path / "a.json", 1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_submission(path, {1, 2})
    assert path.read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]
