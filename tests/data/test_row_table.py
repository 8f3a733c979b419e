"""Rows on disk: the same rows as the file's, kept once for a content, whatever happens to the cache."""

import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llava_mocle.clustering.embedding_cache import default_cache_dir
from llava_mocle.data import row_table, rows
from llava_mocle.data.row_sizes import ESCAPED, LATE_IMAGE, PADDED
from llava_mocle.data.row_table import RowTable, write_rows
from llava_mocle.data.rows import read_rows, rows_cache_dir
from llava_mocle.errors import DataError
from tests.data.conftest import make_row

ROWS = [
    make_row("<image>\nWhat?", "é", image="a.png", row_id=0),
    make_row("  padded", "猫", "q", "a", row_id="x"),
    make_row("q <image> r", "a", "again <image>", "b", image=["a", "b"], row_id=None) | {"extra": {"k": [1, None]}},
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", str(tmp_path / "cache"))
    return rows_cache_dir()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS), encoding="utf-8")
    return path


def no_reading(*_: object) -> None:
    raise AssertionError("the file was read again")


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", "/elsewhere")
    assert (rows_cache_dir(), default_cache_dir()) == (Path("/elsewhere/rows"), Path("/elsewhere/embeddings"))
    monkeypatch.delenv("LLAVA_MOCLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    home = tmp_path / "llava_mocle"
    assert (rows_cache_dir(), default_cache_dir()) == (home / "rows", home / "embeddings")


def test_a_sequence_of_rows(cache: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_table, "_BATCH_ROWS", 2)
    table = read_rows(path)
    assert len(table) == 3
    assert [table[index] for index in (-3, 1, 2)] == ROWS
    assert list(table) == ROWS
    assert table[::-2] == ROWS[::-2]
    assert table[1:2] == ROWS[1:2]
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"row {index} of 3"):
            table[index]


def test_sizes(cache: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_table, "_BATCH_BYTES", 10)
    sizes = read_rows(path).sizes()
    assert sizes.images.tolist() == [1, 0, 2]
    assert sizes.turns.tolist() == [2, 4, 4]
    # In bytes, with the tags in front: "<image>\nWhat?" and "é"; "  padded", "猫", "q", "a"; "<image>\nq  r", ...
    assert sizes.head_bytes.tolist() == [13, 8, 12]
    assert sizes.text_bytes.tolist() == [15, 13, 12 + 1 + 13 + 1]
    assert sizes.has(LATE_IMAGE).tolist() == [False, False, True]
    assert sizes.has(PADDED).tolist() == [False, True, False]


def test_a_first_turn_that_is_left_out_has_no_size(cache: Path, tmp_path: Path) -> None:
    row = make_row("question", "answer")
    row["conversations"].insert(0, {"from": "gpt", "value": " <image> hello "})
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    sizes = read_rows(path).sizes()
    assert [int(column[0]) for column in (sizes.images, sizes.turns, sizes.text_bytes, sizes.head_bytes)] == [
        0,
        2,
        14,
        8,
    ]
    assert sizes.flags[0] == 0


def test_what_a_row_mentions(cache: Path, tmp_path: Path) -> None:
    texts = ["a </think> b", 'say "猫"\n', "other"]
    path = tmp_path / "rows.json"
    for ascii_only in (True, False):
        path.write_text(json.dumps([make_row(text, "a") for text in texts], ensure_ascii=ascii_only), encoding="utf-8")
        table = read_rows(path)
        assert table.mentions("</think>").tolist() == [True, False, False]
        assert table.mentions('"猫"\n').tolist() == [False, True, False]
        assert not table.sizes().has(ESCAPED).any()
    path.write_text(json.dumps([make_row(text, "a") for text in texts]).replace("/", "\\/"))
    assert read_rows(path).sizes().has(ESCAPED).tolist() == [True, False, False]


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


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "other rows", "other columns"])
def test_a_damaged_cache_is_made_again(damage: str, cache: Path, path: Path, tmp_path: Path) -> None:
    digest = read_rows(path).digest
    (file,) = cache.iterdir()
    content = file.read_bytes()
    if damage == "other rows":
        file.unlink()
        write_rows([("{}", (0, 0, 0, 0, 0))], file, "another")
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
    write_rows([("{}", (0, 0, 0, 0, 0))], file, digest)
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


def test_crossing_to_another_process_takes_the_name_only(cache: Path, path: Path) -> None:
    path.write_text(json.dumps([make_row("q" * 1000, "a", row_id=index) for index in range(200)]))
    table = read_rows(path)
    sent = pickle.dumps(table)
    assert len(sent) < 1000
    assert list(pickle.loads(sent)) == list(table)
    next(cache.iterdir()).unlink()
    with pytest.raises(DataError, match="can't be read any more"):
        pickle.loads(sent)


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
