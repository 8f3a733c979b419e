"""docs/evaluation.md: each benchmark's scorer is named."""

import re
from pathlib import Path

from llava_mocle.evaluation.registry import all_tasks

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_the_table_of_scorers_has_every_benchmark_once():
    section = PAGE.read_text(encoding="utf-8").split("## Where scorers disagree")[1]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    assert all(len(row) == 4 for row in rows), [row[0] for row in rows if len(row) != 4]
    named = [re.sub(r",? ?`.*`", "", row[0].strip("| ")).split(", ") for row in rows]
    names = [name for row in named for name in row]
    assert sorted(set(names)) == list(all_tasks())
    assert {name for name in names if names.count(name) > 1} == {"gqa"}  # one row for each style of prompts


def test_every_name_that_scores_carry_is_explained():
    text = PAGE.read_text(encoding="utf-8")
    for name, task in all_tasks().items():
        for scorer in task.scorers:
            assert scorer.removesuffix(" 2024").removesuffix(" 2025") in text, (name, scorer)
