"""Tables for a server that takes spreadsheets."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openpyxl import Workbook

from llava_mocle.io.files import written_aside

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # not allowed in a spreadsheet


def write_spreadsheet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows with the same keys to `path` (.xlsx), the keys as its first line; returns the path."""
    header = list(rows[0]) if rows else []
    lines = [header, *([_cell(row[key]) for key in header] for row in rows)]
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    for line in lines:
        sheet.append(line)
    with written_aside(path) as aside:
        book.save(aside)
    return path


def _cell(value: Any) -> Any:
    return _CONTROL.sub("", value) if isinstance(value, str) else value
