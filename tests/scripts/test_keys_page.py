"""docs/keys.md is what the keys' declarations say."""

import runpy
from pathlib import Path

from llava_mocle.recipe.recipe import known_keys

# By its path: packages on the index install a package "scripts" too.
SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts/keys_page.py"))
PAGE, page = SCRIPT["PAGE"], SCRIPT["page"]


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python scripts/keys_page.py` and commit docs/keys.md"


def test_every_key_is_on_the_page() -> None:
    text = page()
    assert [key for key in known_keys() if f"`{key}`" not in text] == []
