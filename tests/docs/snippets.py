"""The fenced code of a page."""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"


def python_snippets(page: Path) -> list[str]:
    """Every block that is marked `python`, in order; a page without any is a mistake of the test."""
    found = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert found, f"{page} holds no python code"
    return found


def run_page(name: str, **names: Any) -> dict[str, Any]:
    """Run a page's snippets one after the other, in the current folder.

    Args:
        name: the page's, without `.md`.
        names: what the page takes as given.

    Returns:
        Every name that the snippets have left behind.
    """
    for number, snippet in enumerate(python_snippets(DOCS / f"{name}.md"), 1):
        exec(compile(snippet, f"docs/{name}.md, snippet {number}", "exec"), names)
    return names
