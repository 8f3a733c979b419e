"""Tables for a server that takes spreadsheets."""

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.io.files import written_aside

logger = logging.getLogger(__name__)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # not allowed in a spreadsheet


def write_spreadsheet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows with the same keys to `path` (.xlsx), the keys as its first line; returns the file written.

    Without openpyxl it is a .csv of the same name, and a warning says so: answers that took hours are not lost to a
    missing package.
    """
    header = list(rows[0]) if rows else []
    lines = [header, *([_cell(row[key]) for key in header] for row in rows)]
    try:
        from openpyxl import Workbook
    except ImportError:
        path = path.with_suffix(".csv")
        logger.warning("openpyxl is not installed, so %s was written; save it as .xlsx for the server.", path)
        with written_aside(path) as aside, open(aside, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(lines)
    else:
        book = Workbook(write_only=True)
        sheet = book.create_sheet("Sheet1")
        for line in lines:
            sheet.append(line)
        with written_aside(path) as aside:
            book.save(aside)
    return path


def _cell(value: Any) -> Any:
    return _CONTROL.sub("", value) if isinstance(value, str) else value
