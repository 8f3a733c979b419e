"""Rows on disk: the same rows as the file's, kept once for a content, whatever happens to the cache."""

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from llava_mocle.data import row_table
from llava_mocle.data.row_table import write_rows
from llava_mocle.data.rows import read_rows
from llava_mocle.errors import DataError
from tests.data.conftest import ROWS, make_row


def test_a_sequence_of_rows(cache: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_table, "_BATCH_ROWS", 2)
    table = read_rows(path)
    assert len(table) == 3
    assert [table[index] for index in (-3, 1, 2)] == ROWS
    assert list(table) == ROWS
    assert table[::-2] == ROWS[::-2]
    assert table[1:2] == ROWS[1:2]
    assert table.image_counts().tolist() == [1, 0, 2]
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"row {index} of 3"):
            table[index]


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "other rows", "other columns"])
def test_a_damaged_cache_is_made_again(damage: str, cache: Path, path: Path, tmp_path: Path) -> None:
    digest = read_rows(path).digest
    (file,) = cache.iterdir()
    content = file.read_bytes()
    if damage == "other rows":
        file.unlink()
        write_rows([("{}", 0)], file, "another")
    elif damage == "other columns":
        schema = pa.schema([("row", pa.string())], {b"llava_mocle.rows_digest": digest.encode()})
        with pa.ipc.new_file(str(file), schema):
            pass
    else:
        file.write_bytes({"cut": content[:-30], "empty": b"", "noise": b"\0" * len(content)}[damage])
    with pytest.warns(UserWarning, match=f"{file.name}: a damaged cache file, made again from {path}"):
        assert list(read_rows(path)) == ROWS
    assert file.read_bytes() == content


def test_a_file_that_is_there_is_not_replaced(cache: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have it mapped."""
    digest = read_rows(path).digest
    (file,) = cache.iterdir()
    before = file.stat().st_ino
    write_rows([("{}", 0)], file, digest)
    assert file.stat().st_ino == before
    assert list(cache.iterdir()) == [file]
    file.unlink()
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    assert list(read_rows(path)) == ROWS
    assert list(cache.iterdir()) == [file]


def test_a_damaged_row_names_the_cache_file(cache: Path, path: Path) -> None:
    read_rows(path)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes().replace(b'{"id": "x"', b'{"id": _x"'))
    with pytest.raises(DataError, match=f"{file.name}: row 1 of .*rows.json is damaged.*delete it"):
        read_rows(path)[1]


def test_crossing_to_another_process_takes_the_name_only(cache: Path, path: Path) -> None:
    path.write_text(json.dumps([make_row("q" * 1000, "a", row_id=index) for index in range(200)]))
    table = read_rows(path)
    sent = pickle.dumps(table)
    assert len(sent) < 1000
    assert list(pickle.loads(sent)) == list(table)
    next(cache.iterdir()).unlink()
    with pytest.raises(DataError, match="can't be read any more"):
        pickle.loads(sent)
