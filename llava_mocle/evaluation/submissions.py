"""The files that a benchmark's server or official scorer takes. Each is written whole or not at all."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.io.files import write_text, written_aside
from llava_mocle.io.jsonl import write_jsonl


def write_submission(path: Path, content: Any) -> Path:
    """Write `content` to `path`, and return `path`.

    Args:
        path: its suffix chooses the form. .json: one value. .jsonl: a record a line. .xlsx: rows with the same keys,
            which are the first line.
        content: a JSON value; for .jsonl and .xlsx a list of mappings.
    """
    if path.suffix == ".jsonl":
        write_jsonl(path, content)
    elif path.suffix == ".xlsx":
        _write_spreadsheet(path, content)
    else:
        write_text(path, json.dumps(content, ensure_ascii=False))
    return path


def _write_spreadsheet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    from openpyxl import Workbook  # slow to import, and only one benchmark needs it
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    if rows:
        sheet.append(list(rows[0]))
    for row in rows:
        sheet.append(
            [ILLEGAL_CHARACTERS_RE.sub("", value) if isinstance(value, str) else value for value in row.values()]
        )
    with written_aside(path) as aside:
        book.save(aside)
