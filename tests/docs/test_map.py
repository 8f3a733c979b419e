"""The README's map and the list of places in CONTRIBUTING.md name what is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_places_exist() -> None:
    places = re.findall(r"`((?:llava_mocle|tests)/[\w./]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(places) > 10
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_the_map_names_every_room() -> None:
    text = (ROOT / "README.md").read_text()
    drawn = text.partition("```\nllava_mocle/\n")[2].partition("```")[0]
    outer = {name.rstrip("/") for name in re.findall(r"^  ([\w.]+/?) ", drawn, flags=re.MULTILINE)}
    package = ROOT / "llava_mocle"
    found = {path.name for path in package.iterdir() if path.name not in ("__init__.py", "__pycache__")}
    assert outer == found
    inner = set(re.findall(r"^    (\w+)/ ", drawn, flags=re.MULTILINE))
    rooms = {path.parent.name for path in package.glob("*/*/__init__.py")}
    assert inner == rooms


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link} is not there"
