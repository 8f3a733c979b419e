"""The rows that InstructBLIP's formats make of releases in miniature, and what they ask and say."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from llava_mocle.data.formats.format import Format, MakeOptions
from llava_mocle.data.formats.make import make_rows
from llava_mocle.data.row_problems import row_problems


def write_images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (4, 4), (10 * number, 0, 0)).save(folder / name)


def made(
    form: Format, source: Path, variants: int = 1, seed: int = 0, images: Path | None = None
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """(rows, how many records were left out for each reason); each row has been found fit to train on."""
    output = source.parent / f"{form.name}.jsonl"
    counts = make_rows(form, source, images or source, output, MakeOptions(variants, seed))
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    for index, row in enumerate(rows):
        assert list(row_problems(row, index)) == []
        assert ((images or source) / row["image"]).is_file()
        assert (row["dataset"], row["task_group"]) == (form.name, form.task_group)
    assert counts.rows == len(rows) == len({row["id"] for row in rows})
    return rows, Counter({what.reason: count for what, count in counts.left_out.items()})


def asked(row: dict[str, Any]) -> str:
    """What the human writes, without the image's mark, which has to be in front."""
    human, _ = row["conversations"]
    assert human["value"].startswith("<image>\n")
    return human["value"].removeprefix("<image>\n")


def said(row: dict[str, Any]) -> str:
    return row["conversations"][1]["value"]


def exchanges(form: Format, source: Path, templates: int) -> dict[str, list[tuple[str, str]]]:
    """(request, answer) of every template in the order of their numbers, by sample."""
    rows, _ = made(form, source, variants=templates)
    by_sample: dict[str, list[tuple[str, str]]] = {}
    for row in sorted(rows, key=lambda row: row["template"]):
        by_sample.setdefault(row["id"].split("/")[1], []).append((asked(row), said(row)))
    assert all(len(pairs) == templates for pairs in by_sample.values())
    return by_sample
