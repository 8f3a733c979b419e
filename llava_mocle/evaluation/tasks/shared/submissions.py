"""The files that a benchmark's server or official scorer takes. Each is written whole or not at all."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.io.files import write_text, written_aside
from llava_mocle.io.jsonl import to_jsonl

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # not allowed in a spreadsheet


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as JSON to `path`, and return `path`."""
    write_text(path, json.dumps(value, ensure_ascii=False))
    return path


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write one JSON object a line to `path`, and return `path`."""
    write_text(path, to_jsonl(records))
    return path


def write_spreadsheet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows with the same keys to `path` (.xlsx), the keys as its first line, and return `path`."""
    from openpyxl import Workbook  # slow to import, and only one benchmark needs it

    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    if rows:
        sheet.append(list(rows[0]))
    for row in rows:
        sheet.append([_CONTROL.sub("", value) if isinstance(value, str) else value for value in row.values()])
    with written_aside(path) as aside:
        book.save(aside)
    return path
