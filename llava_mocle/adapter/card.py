"""README.md of a model folder: what people and the Hub read about it. It names folders, never paths of this machine."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from llava_mocle.io.files import write_text

CARD_FILE = "README.md"
PAPER = "arXiv 2312.12379"
_HUB_NAME_PARTS = 2


def public_name(base: str | os.PathLike[str] | None) -> str:
    """A base's name on the Hub, or the name of its folder."""
    parts = Path(base or "unknown").parts
    hub = len(parts) == _HUB_NAME_PARTS and not Path(str(base)).is_dir() and parts[0] not in (".", "..", "~", "/")
    return "/".join(parts) if hub else Path(os.path.abspath(base)).name if base else "unknown"


def write_card(
    folder: str | os.PathLike[str], title: str, base: str, tags: Iterable[str], blocks: Iterable[str]
) -> None:
    """Write README.md: the Hub's metadata, a title, and blocks of Markdown.

    Args:
        base: the base model's `public_name`.
        tags: beside `llava_mocle` and `mocle`.
    """
    metadata = {
        "base_model": base,
        "library_name": "peft",
        "pipeline_tag": "image-text-to-text",
        "tags": list(dict.fromkeys(["llava_mocle", "mocle", *tags])),
    }
    head = yaml.safe_dump(metadata, sort_keys=False)
    write_text(Path(folder, CARD_FILE), "\n\n".join([f"---\n{head}---", f"# {title}", *blocks]) + "\n")


def table(facts: Iterable[tuple[str, Any]]) -> str:
    """Facts as a Markdown table; those that are None or empty are left out."""
    rows = [f"| {name} | {str(value).replace('|', '/')} |" for name, value in facts if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *rows])


def code(*lines: str) -> str:
    """A block of Python, to be run in the card's folder."""
    return "\n".join(["```python", *lines, "```"])
