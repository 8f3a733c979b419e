"""Reading a file of rows: checked as a whole, then kept on disk for its content."""

import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from llava_mocle.clustering.embedding_cache import default_cache_dir
from llava_mocle.data import rows
from llava_mocle.data.row_table import RowTable
from llava_mocle.data.rows import read_rows, rows_cache_dir
from llava_mocle.errors import DataError
from tests.data.conftest import ROWS, make_row

GOOD = make_row("<image>\nq", "a", image="x.png", row_id="good")


def test_json_and_jsonl_give_the_same_rows(tmp_path: Path) -> None:
    rows = [GOOD, make_row("q\u2028x", "猫", row_id=7) | {"route_text": "q", "extra": [1]}]
    rows.append(make_row("<image> <image>", "a", image=["x", "y"]) | {"image": ["x", "y"]})
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "lines.json").write_text(lines, encoding="utf-8")
    (tmp_path / "bom.json").write_text(json.dumps(rows), encoding="utf-8-sig")
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    for path in (tmp_path / "rows.json", tmp_path / "rows.jsonl", tmp_path / "lines.json", tmp_path / "bom.json"):
        assert list(read_rows(path)) == rows


def test_other_bad_rows_are_counted(tmp_path: Path) -> None:
    no_answer = {"id": "bad", "conversations": [{"from": "human", "value": "q"}]}
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"id": 1}, GOOD, {"id": 2}, no_answer]))
    with pytest.raises(
        DataError, match=r"row 0.*2 more rows have problems: `llava-mocle data check --rows .*rows.json --no-images`"
    ):
        read_rows(path)


BROKEN_FILES = {
    "cut list": ("rows.json", '[{"id": 1},\n {"id": 2, "conv', r"line 2, column 12 \(character 23\).*cut off"),
    "cut after a row": ("rows.json", '[{"id": 1},', r"line 1.*cut off"),
    "bad in the middle": ("rows.json", '[{"id": 1}\n {"id": 2}]', r"line 2, column 2 \(character 12\)"),
    "cut line": ("rows.jsonl", '{"id": 1}\n{"id": ', r"line 2, column 8.*last line.*cut off"),
    "bad line": ("rows.jsonl", '{"id": 1}\n{"id" 2}\n{"id": 3}', r"line 2, column 7 "),
    "no list": ("rows.json", '"text"', "found a JSON string, expected a list"),
    "empty list": ("rows.json", "[]", "no rows"),
    "empty file": ("rows.jsonl", "", "no rows"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_files(case: str, tmp_path: Path) -> None:
    name, text, message = BROKEN_FILES[case]
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)
    if "middle" in case or case == "bad line":
        assert "cut off" not in str(caught.value)


def test_no_such_file_and_not_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json: no such file.*data_path"):
        read_rows(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="folder"):
        read_rows(tmp_path)
    path = tmp_path / "latin.json"
    path.write_bytes(b'[{"id": "\xe9"}]')
    with pytest.raises(DataError, match="byte 9 is not UTF-8"):
        read_rows(path)


def no_reading(*_: object) -> None:
    raise AssertionError("the file was read again")


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", "/elsewhere")
    assert (rows_cache_dir(), default_cache_dir()) == (Path("/elsewhere/rows"), Path("/elsewhere/embeddings"))
    monkeypatch.delenv("LLAVA_MOCLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    home = tmp_path / "llava_mocle"
    assert (rows_cache_dir(), default_cache_dir()) == (home / "rows", home / "embeddings")


def test_one_content_is_read_once(cache: Path, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_rows(path)
    copy = tmp_path / "copy.json"
    copy.write_bytes(path.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(rows, "stream_rows", no_reading)
        for again in (read_rows(path), read_rows(copy)):
            assert list(again) == ROWS
            assert again.digest == first.digest
    assert len(list(cache.iterdir())) == 1
    path.write_text(json.dumps(ROWS[:2]))
    assert len(read_rows(path)) == 2
    assert list(first) == ROWS
    # The same bytes, read as lines, are one row (a list): the name is part of the content.
    lines = tmp_path / "copy.jsonl"
    lines.write_bytes(copy.read_bytes())
    with pytest.raises(DataError, match="row 0, row: found"):
        read_rows(lines)


def test_wrong_rows_are_not_kept(cache: Path, path: Path) -> None:
    path.write_text(json.dumps([*ROWS, {"id": 3}]))
    for _ in range(2):
        with pytest.raises(DataError, match="row 3"):
            read_rows(path)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_costs_a_warning(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="rows can't be kept there.*LLAVA_MOCLE_CACHE"):
        table = read_rows(path)
    assert list(table) == list(pickle.loads(pickle.dumps(table))) == ROWS


def test_a_file_that_changes_while_it_is_read(cache: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows.stream_rows

    def changing(source: Path):
        yield from whole(source)
        source.write_text(json.dumps(ROWS[:1]))

    monkeypatch.setattr(rows, "stream_rows", changing)
    with pytest.raises(DataError, match="was changed while it was read"):
        read_rows(path)
    assert list(cache.iterdir()) == []


def ids_of(path: Path) -> list[int]:
    return [row["id"] for row in read_rows(path)]


def first_id(table: RowTable) -> int:
    return table[0]["id"]


@pytest.mark.slow
def test_processes_may_build_one_cache_at_once(cache: Path, path: Path) -> None:
    path.write_text(json.dumps([make_row("q", "a", row_id=index) for index in range(20_000)]))
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(ids_of, [path] * 3, timeout=120):
            assert np.array_equal(found, np.arange(20_000))
        assert pool.submit(first_id, read_rows(path)).result(timeout=60) == 0
    assert [file.suffix for file in cache.iterdir()] == [".arrow"]
