"""The fenced code of a page."""

import re
from pathlib import Path


def python_snippets(page: Path) -> list[str]:
    """Every block that is marked `python`, in order; a page without any is a mistake of the test."""
    found = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert found, f"{page} holds no python code"
    return found
