"""Writing the files that servers and official scorers take."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llava_mocle.io.files import write_text
from llava_mocle.io.jsonl import write_jsonl


def write_upload(path: Path, value: Any) -> Path:
    """Write `value` as JSON to `path`, whole or not at all, and return `path`."""
    write_text(path, json.dumps(value, ensure_ascii=False))
    return path


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Write one object a line to `path`, whole or not at all, and return `path`."""
    write_jsonl(path, records)
    return path
