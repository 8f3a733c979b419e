"""Reading the benchmarks' official files, with errors that name file, record and field."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError


def read_json(path: Path) -> Any:
    """A JSON file. Raises DataError: missing, not UTF-8, not JSON."""
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}); fetch the file again.") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """A file with one JSON object a line; blank lines are skipped."""
    records = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error.msg}); fetch the file again.") from error
    return records


def read_table(path: Path, delimiter: str = "\t") -> list[dict[str, str]]:
    """A TSV (or CSV) file with a header line; fields may be as large as a base64 image."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    # Not splitlines: it would also cut at characters that a field may hold.
    return list(csv.DictReader(io.StringIO(_text(path), newline=""), delimiter=delimiter))


def field(record: Mapping[str, Any], key: str, place: str) -> Any:
    """`record[key]`.

    Raises:
        DataError: it is not there; names the place and the keys that are.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{place}: found {record!r:.60}, expected an object with the key {key!r}.")
    if key not in record:
        raise DataError(
            f"{place}: no {key!r}, only {', '.join(map(str, record)) or 'nothing'}; is this the file of another split "
            "or version?"
        )
    return record[key]


def places(path: Path, records: list[Any]) -> Iterator[tuple[str, Any]]:
    """(place for messages, record) of each record."""
    for number, record in enumerate(records):
        yield f"{path}, record {number}", record


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; `llava-mocle eval prepare` says where it comes from.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; fetch the file again.") from error
