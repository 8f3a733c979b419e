"""Writing the files that a benchmark's server takes."""

import json
import os
from pathlib import Path
from typing import Any


def write_upload(path: Path, value: Any) -> Path:
    """Write `value` as JSON to `path`, whole or not at all, and return `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    os.replace(aside, path)
    return path
