"""Parsing a file of rows piece by piece: a JSON list or JSONL. Syntax errors name line and column."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from llava_mocle.errors import DataError
from llava_mocle.io.paths import why_no_file
from llava_mocle.io.text import one_line

_LINE_SUFFIXES = (".jsonl", ".ndjson")
_CHUNK = 1 << 20
# If a text ends inside a literal or an escape, a decoder reports an error at most so many characters before its end.
_LONGEST_LITERAL = 16
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def stream_rows(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield (JSON text, parsed value) of each row, unchecked. Only a small part of the file is in memory at a time.

    A file is JSONL if it is named .jsonl or .ndjson, or starts with `{`; else it is one JSON list.

    Raises:
        DataError: no such file, not UTF-8, not JSON (with line and column), not a list, or no rows at all.
    """
    path = Path(path)
    with opened(path, encoding="utf-8-sig") as stream:
        start = stream.read(_CHUNK)
        while start and not start.strip() and (piece := stream.read(_CHUNK)):
            start += piece
        found = False
        lines = reads_as_lines(path) or start.lstrip()[:1] == "{"
        for row in _stream_lines(path, stream, start) if lines else _ListReader(path, stream, start).rows():
            found = True
            yield row
        if not found:
            raise DataError(f"{path}: found no rows, expected at least one")


def reads_as_lines(path: Path) -> bool:
    """Whether a file's name says that it holds one row a line (its first character may say so too)."""
    return path.suffix in _LINE_SUFFIXES


@contextmanager
def opened(path: Path, mode: str = "r", encoding: str | None = None) -> Iterator[Any]:
    """A file of rows, opened; what can be wrong with it becomes a DataError, also while it is read."""
    if (reason := why_no_file(path)) is not None:
        if reason == "it is a folder":
            raise DataError(f"{path}: found a folder, expected a JSON or JSONL file of rows")
        raise DataError(
            f"{one_line(path)}: no such file of rows ({reason}); check `data_path` and the folder the command runs in"
        )
    try:
        with path.open(mode, encoding=encoding) as stream:
            yield stream
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); copy the file again") from error
    except UnicodeDecodeError as error:
        # Its position is that in the piece which was read. Only the whole file tells the position in the file.
        place = error.start
        try:
            path.read_bytes().decode()
        except UnicodeDecodeError as whole:
            place = whole.start
        raise DataError(f"{path}: byte {place} is not UTF-8; save the file as UTF-8") from error


def _stream_lines(path: Path, stream: TextIO, start: str) -> Iterator[tuple[str, Any]]:
    lines = enumerate(_lines(stream, start), 1)
    for number, line in lines:
        text = line.strip()
        if not text:
            continue
        try:
            yield text, json.loads(line)
        except (ValueError, RecursionError) as error:
            if not isinstance(error, json.JSONDecodeError):
                raise DataError(f"{path}: line {number} {_beyond_reading(error)}") from error
            last = not any(rest.strip() for _, rest in lines)
            cut = " (the last line: the file was probably cut off; copy it again)" if last else ""
            raise DataError(
                f"{path}: not valid JSON at line {number}, column {error.colno} (character {error.pos} of the line): "
                f"{error.msg}{cut}; expected one row a line: {{...}}"
            ) from error


def _lines(stream: TextIO, start: str) -> Iterator[str]:
    # Only "\n" ends a line: str.splitlines would also cut at characters that JSON allows inside strings.
    *whole, rest = start.split("\n")
    yield from whole
    yield rest + stream.readline()
    yield from stream


class _ListReader:
    """The elements of one JSON list. Text is read on at its end as needed, and dropped once it is decoded."""

    def __init__(self, path: Path, stream: TextIO, start: str) -> None:
        self._path, self._stream, self._text = path, stream, start
        self._at = 0
        self._ended = False
        # Of the text that was dropped: characters, line ends, and characters after the last line end.
        self._dropped, self._lines, self._column = 0, 0, 0

    def rows(self) -> Iterator[tuple[str, Any]]:
        if self._peek() != "[":
            _, value = self._decode()
            raise DataError(f"{self._path}: found a JSON {_type_name(value)}, expected a list of rows: [{{...}}, ...]")
        self._at += 1
        if self._peek() != "]":
            yield self._decode()
            while self._peek() == ",":
                self._at += 1
                yield self._decode()
        if self._peek() != "]":
            raise self._broken("Expecting ',' delimiter", self._at)
        self._at += 1
        if self._peek():
            raise self._broken("Extra data", self._at)

    def _peek(self) -> str:
        """The next character that isn't white space, "" at the end of the file."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def _decode(self) -> tuple[str, Any]:
        """The next value, with its text."""
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # Where the text read so far ends, an error may only mean that there is more to read.
                near_end = not self._text[error.pos + _LONGEST_LITERAL :].strip()
                if self._ended or not (near_end or error.msg.startswith("Unterminated string")):
                    raise self._broken(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{self._path}: near line {self._line(self._at)}, a row {_beyond_reading(error)}"
                ) from error
            else:
                # A number that is cut short ("-1.5" of "-1.5e3") is a number too, so what follows must be known.
                spare = _LONGEST_LITERAL if isinstance(value, int | float) else 0
                if end + spare < len(self._text) or self._ended:
                    text = self._text[self._at : end]
                    self._at = end
                    return text, value
            self._more()

    def _more(self) -> bool:
        """Read as much again as is left, so that the time for a long row grows only with its length."""
        gone = self._text[: self._at]
        self._dropped += len(gone)
        self._lines += gone.count("\n")
        self._column = len(gone) - gone.rfind("\n") - 1 if "\n" in gone else self._column + len(gone)
        self._text = self._text[self._at :]
        self._at = 0
        piece = self._stream.read(max(_CHUNK, len(self._text)))
        self._text += piece
        self._ended = not piece
        return bool(piece)

    def _broken(self, message: str, at: int) -> DataError:
        before = self._text[:at]
        line = self._line(at)
        column = at - before.rfind("\n") if "\n" in before else self._column + at + 1
        cut = " (the file ends there: it was probably cut off; copy it again)" if self._is_cut(at) else ""
        return DataError(
            f"{self._path}: not valid JSON at line {line}, column {column} (character {self._dropped + at}): "
            f"{message}{cut}; expected a list of rows: [{{...}}, ...]"
        )

    def _line(self, at: int) -> int:
        return self._lines + self._text[:at].count("\n") + 1

    def _is_cut(self, at: int) -> bool:
        # An unterminated string is reported at its opening quote, so look for a closed bracket at the end as well.
        last = self._text[at:].rstrip()[-1:]
        nothing_left = not last
        while piece := self._stream.read(_CHUNK):
            if piece.strip():
                last, nothing_left = piece.rstrip()[-1], False
        return nothing_left or last != "]"


def _beyond_reading(error: Exception) -> str:
    """What is wrong with a text that is JSON, and that Python cannot read all the same."""
    if isinstance(error, RecursionError):
        return "holds lists or objects too deep inside each other to be read; write it flatter"
    return "holds a number with too many digits to be read (4,300 at most); write it as text"


def _type_name(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
