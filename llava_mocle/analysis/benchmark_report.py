"""Tables of runs, as Markdown and as one HTML page."""

import os
from collections.abc import Sequence
from pathlib import Path

from llava_mocle.analysis import html
from llava_mocle.analysis.benchmark_sections import Cell, Row, Section
from llava_mocle.analysis.stylesheet import CSS
from llava_mocle.io.files import write_text


def to_markdown(sections: Sequence[Section]) -> str:
    """The tables in GitHub's Markdown."""
    parts = []
    for section in sections:
        lines = [f"## {section.title}", "", _line(["", *section.columns]), _line(["---"] * (len(section.columns) + 1))]
        for row in section.rows:
            name = f"**{row.name}**" if row.ours else row.name
            lines.append(_line([name, *(_text(cell) for cell in row.cells)]))
        parts.append("\n".join(lines))
        parts += section.notes
    return "\n\n".join([*parts, NOTE]) + "\n"


NOTE = (
    "Small print: intervals are 95 % bootstrap intervals over the items. The paper gives none, so a difference from "
    "the paper carries ours alone and is really less certain. A difference between two runs has an interval "
    "where both were asked the same and the metric is a mean of items."
)


def to_html(sections: Sequence[Section], title: str = "Benchmarks") -> str:
    """One self-contained page."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        header = [("", ""), *((column, "num") for column in section.columns)]
        rows = [_html_name(row) + "".join(_html_cell(cell) for cell in row.cells) for row in section.rows]
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in section.notes)
        body.append(f"<section><h2>{html.escape(section.title)}</h2>{html.table(header, rows)}{notes}</section>")
    body.append(f"<p>{html.escape(NOTE)}</p>")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{CSS}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def write_report_files(sections: Sequence[Section], folder: str | os.PathLike[str], name: str) -> list[Path]:
    """Write `NAME.md` and `NAME.html` into `folder`."""
    title = name.replace("_", "-").capitalize()
    paths = []
    for suffix, text in ((".md", to_markdown(sections)), (".html", to_html(sections, title))):
        path = Path(folder) / f"{name}{suffix}"
        write_text(path, text)
        paths.append(path)
    return paths


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float, signed: bool = False) -> str:
    digits = 0 if abs(value) >= 1000 and value == int(value) else 1 if abs(value) >= 1000 else 2
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def _range(cell: Cell) -> str:
    if cell.interval is None:
        return ""
    return f"{_number(cell.interval[0], cell.difference)} to {_number(cell.interval[1], cell.difference)}"


def _text(cell: Cell) -> str:
    if cell.value is None:
        return f"– ({cell.note})" if cell.note else "–"
    extra = ", ".join(part for part in (_range(cell), cell.note) if part)
    return _number(cell.value, cell.difference) + (f" ({extra})" if extra else "")


def _html_name(row: Row) -> str:
    name = html.escape(row.name)
    return f"<td><b>{name}</b></td>" if row.ours else f"<td>{name}</td>"


def _html_cell(cell: Cell) -> str:
    if cell.value is None:
        return f'<td class="num">–<span class="ci">{html.escape(cell.note)}</span></td>'
    kind = ""
    if cell.difference and cell.interval and (cell.interval[0] > 0 or cell.interval[1] < 0):
        kind = "up" if cell.value > 0 else "down"
    below = ", ".join(part for part in (_range(cell), cell.note) if part)
    number = html.escape(_number(cell.value, cell.difference))
    return f'<td class="num"><span class="{kind}">{number}</span><span class="ci">{html.escape(below)}</span></td>'
