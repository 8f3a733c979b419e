"""The messages that docs/faq.md quotes are messages of this code."""

import re
from pathlib import Path

from tests.docs.snippets import DOCS

ROOT = Path(__file__).parents[2]


def test_quoted_messages_are_in_the_code() -> None:
    files = [*ROOT.glob("llava_mocle/**/*.py"), *ROOT.glob("scripts/**/*.sh")]
    code = "\n".join(file.read_text(encoding="utf-8") for file in files)
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # a message over several lines
    code = code.replace("{IMAGE_TOKEN} ", "")
    quotes = re.findall(r'^\*\*"(.+?)"', (DOCS / "faq.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(quotes) > 8
    parts = [part.strip(" .,();") for quote in quotes for part in re.split(r"\.\.\.", quote)]
    assert [part for part in parts if part not in code] == []
