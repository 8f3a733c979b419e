"""Files read piece by piece say what Python's own parser says of the whole text."""

import json
import os
import random
from pathlib import Path

import pytest

from llava_mocle.data import row_files
from llava_mocle.data.row_files import stream_rows
from llava_mocle.data.rows import read_rows
from llava_mocle.errors import DataError
from tests.data.conftest import make_row

ROWS = [
    make_row("<image>\nq\u2028x", 'a "quoted"\n\tanswer', image="x.png", row_id=1),
    make_row("猫 \U0001f600", "\\u00e9 \ud83d", row_id="b") | {"extra": [1.5e3, None, {"deep": [True, -7]}]},
    make_row("q" * 90, "a"),
    {"id": 4},
]
TEXTS = {
    "one line": json.dumps(ROWS),
    "indented": json.dumps(ROWS, indent=2),
    "loose": " \n[ " + " ,\n".join(json.dumps(row) for row in ROWS) + "\n]\n ",
    "scalars": '[12, "x", null, {}, [], -1.25e-3, true]',
}


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("name", TEXTS)
def test_a_list_in_pieces(name: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "_CHUNK", chunk)
    path = tmp_path / "rows.json"
    path.write_text(TEXTS[name], encoding="utf-8")
    streamed = list(stream_rows(path))
    assert [row for _, row in streamed] == json.loads(TEXTS[name])
    assert [json.loads(text) for text, _ in streamed] == json.loads(TEXTS[name])


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_lines_in_pieces(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "_CHUNK", chunk)
    path = tmp_path / "rows.json"
    path.write_bytes(b"\n \r\n" + b"\r\n".join(json.dumps(row).encode() for row in ROWS))
    assert [row for _, row in stream_rows(path)] == ROWS
    path.write_text(path.read_text() + '\n{"id" 5}\n\n{"id": 6}')
    with pytest.raises(DataError, match=r"line 7, column 7 \(character 6 of the line\): Expecting ':' delimiter; "):
        list(stream_rows(path))


@pytest.mark.parametrize("chunk", [3, 50, 1 << 20])
def test_errors_stand_where_python_finds_them(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random damage: a cut, a character lost, doubled or replaced; the whole file's `json.loads` is the reference."""
    monkeypatch.setattr(row_files, "_CHUNK", chunk)
    generator = random.Random(chunk)
    path = tmp_path / "rows.json"
    broken = 0
    for _ in range(300):
        text = TEXTS[generator.choice(("one line", "indented", "loose"))]
        at = generator.randrange(2, len(text))
        text = generator.choice(
            (text[:at], text[:at] + text[at + 1 :], text[:at] + text[at] + text[at:], text[:at] + '"' + text[at + 1 :])
        )
        path.write_text(text, encoding="utf-8")
        try:
            expected = json.loads(text)
        except json.JSONDecodeError as error:
            place = f"line {error.lineno}, column {error.colno} (character {error.pos}): {error.msg}"
            with pytest.raises(DataError) as caught:
                list(stream_rows(path))
            assert place in str(caught.value)
            cut = error.pos >= len(text.rstrip()) or not text.rstrip().endswith("]")
            assert ("cut off" in str(caught.value)) == cut
            broken += 1
        else:
            assert [row for _, row in stream_rows(path)] == expected
    assert broken > 100


@pytest.mark.parametrize(("content", "byte"), [(b'[{"id": "\xe9"}]', 9), (b"[" + b" " * 30 + b"\xf0\x9f\x98]", 31)])
@pytest.mark.parametrize("chunk", [2, 33, 1 << 20])
def test_the_first_byte_that_is_not_text(
    content: bytes, byte: int, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "_CHUNK", chunk)
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"byte {byte} is not UTF-8"):
        list(stream_rows(path))


@pytest.mark.parametrize("kind", ["long", "loop", "below a file", "pipe", "NUL"])
def test_a_path_at_which_there_is_no_file_of_rows(tmp_path, kind):
    paths = {"long": "x" * 300, "loop": "loop", "below a file": "file/rows.json", "pipe": "pipe", "NUL": "a\0b"}
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / paths[kind]
    with pytest.raises(DataError, match="no such file of rows"):
        list(stream_rows(path))
    with pytest.raises(DataError, match="no such file of rows"):
        read_rows(path)
