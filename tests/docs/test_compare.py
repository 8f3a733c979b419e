"""docs/compare.md against what it describes: the keys, the methods and the ranks of its tables."""

import dataclasses
import re
from pathlib import Path

import yaml

from llava_mocle.experiment.design import Design, read_design
from llava_mocle.experiment.methods import STANDARD
from llava_mocle.recipe.keys import ADAPTERS

PAGE = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")


def table_under(heading: str) -> list[str]:
    """The first cells of the first table below a heading."""
    text = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]


def test_every_key_has_its_line() -> None:
    assert table_under("The YAML") == [f"`{item.name}`" for item in dataclasses.fields(Design)]


def test_every_method_has_its_line() -> None:
    assert table_under("Methods") == [f"`{name}`" for name in STANDARD]
    names = [name for cell in table_under("What is fair") for name in re.findall(r"`(\w+)`", cell)]
    assert names == list(STANDARD)
    assert {method.keys["adapter"] for method in STANDARD.values()} <= set(ADAPTERS)


def test_the_examples_are_read(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        keys = {"recipe": "my_recipe.yaml", "output_dir": "out"} | yaml.safe_load(block)
        (tmp_path / "compare.yaml").write_text(yaml.safe_dump(keys))
        read_design(tmp_path / "compare.yaml")
