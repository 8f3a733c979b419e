"""Runs of benchmarks beside the paper's tables, as Markdown and as one HTML page."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mocle.analysis import html
from llava_mocle.analysis.paper_tables import TABLES, Column, PaperTable
from llava_mocle.analysis.stylesheet import CSS
from llava_mocle.evaluation.statistics import paired_difference_interval
from llava_mocle.evaluation.tasks.medical_qa import LEGACY
from llava_mocle.files import write_text

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A number and its interval; a difference where it is one. Without a value: nothing to show."""

    value: float | None = None
    interval: tuple[float, float] | None = None
    difference: bool = False
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A line of a table; `ours` marks what was measured here."""

    name: str
    cells: tuple[Cell, ...]
    ours: bool = False


@dataclass(frozen=True)
class Section:
    """A table ready to be written."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def build_sections(runs: Mapping[str, Results]) -> list[Section]:
    """Tables 2 to 4 of the paper as far as a run has one of their benchmarks, and one with everything else.

    Args:
        runs: name -> what `read_results` gives; the first run is what the others are compared with.
    """
    sections: list[Section] = []
    shown: set[tuple[str, str, str]] = set()
    for table in TABLES:
        used = {name: _with_prompts(run, table.prompts) for name, run in runs.items()}
        used = {name: run for name, run in used.items() if any(_metric(run, column) for column in table.columns)}
        if used:
            sections.append(_paper_section(table, used))
            shown |= {
                (name, column.task, _counted(run, column)) for name, run in used.items() for column in table.columns
            }
    others = {
        Column(f"{entry['title']}: {metric}", task, metric): None
        for name, run in runs.items()
        for task, entry in run["tasks"].items()
        for metric in entry["metrics"]
        if (name, task, metric) not in shown
    }
    if others:
        sections.append(_other_section(list(others), runs))
    return sections


def _with_prompts(run: Results, prompts: str) -> Results:
    """The run with the tasks that were asked in this style alone."""
    tasks = {
        name: entry
        for name, entry in run["tasks"].items()
        if entry.get("settings", {}).get("prompts", "llava") == prompts
    }
    return {**run, "tasks": tasks}


def _counted(run: Results, column: Column) -> str:
    """The column's metric, or the same as LLaVA-Med's scorer counts it where the run was scored in that way."""
    entry = run["tasks"].get(column.task, {})
    legacy = f"{column.metric}{LEGACY}"
    return legacy if entry.get("headline", "").endswith(LEGACY) and legacy in entry["metrics"] else column.metric


def _metric(run: Results, column: Column) -> Mapping[str, Any] | None:
    entry = run["tasks"].get(column.task)
    return entry["metrics"].get(_counted(run, column)) if entry else None


def _paper_section(table: PaperTable, runs: Mapping[str, Results]) -> Section:
    rows = [Row(name, tuple(Cell(value) for value in values)) for name, values in table.rows.items()]
    rows += [Row(name, tuple(_cell(run, column) for column in table.columns), ours=True) for name, run in runs.items()]
    paper = table.rows[table.compared]
    for name, run in runs.items():
        cells = tuple(
            _from_paper(_cell(run, column), value) for column, value in zip(table.columns, paper, strict=True)
        )
        rows.append(Row(f"{name} - paper's {table.compared}", cells, ours=True))
    rows += _differences(runs, table.columns)
    return Section(table.title, tuple(column.label for column in table.columns), tuple(rows))


def _other_section(columns: Sequence[Column], runs: Mapping[str, Results]) -> Section:
    """Benchmarks in lines, as there are many: one column a run."""
    names, rows = list(runs), []
    for column in columns:
        cells = [_cell(runs[name], column) for name in names]
        cells += [_paired(runs[names[0]], runs[name], column) for name in names[1:]]
        rows.append(Row(column.label, tuple(cells), ours=True))
    heads = (*names, *(f"{name} - {names[0]}" for name in names[1:]))
    return Section("Other benchmarks and metrics", heads, tuple(rows))


def _cell(run: Results, column: Column) -> Cell:
    metric = _metric(run, column)
    if metric is None or metric["value"] is None or math.isnan(metric["value"]):
        return Cell()
    entry = run["tasks"][column.task]
    notes = [f"first {entry['limit']}"] if entry["limit"] else []
    notes += [f"{entry['unparsed']} unparsed"] if entry["unparsed"] else []
    notes += ["as LLaVA-Med counts"] if _counted(run, column) != column.metric else []
    interval = tuple(metric["interval"]) if metric["interval"] else None
    return Cell(metric["value"], interval, note=", ".join(notes))


def _from_paper(cell: Cell, paper: float | None) -> Cell:
    if cell.value is None or paper is None:
        return Cell()
    # The paper gives no interval, so its number is taken as it stands: the true interval is wider.
    interval = None if cell.interval is None else (cell.interval[0] - paper, cell.interval[1] - paper)
    return Cell(cell.value - paper, interval, difference=True, note=cell.note)


def _differences(runs: Mapping[str, Results], columns: Sequence[Column]) -> list[Row]:
    first, *others = runs
    return [
        Row(f"{name} - {first}", tuple(_paired(runs[first], runs[name], column) for column in columns), ours=True)
        for name in others
    ]


def _paired(before: Results, after: Results, column: Column) -> Cell:
    """The difference, with an interval over the same items where the metric is a mean of items.

    Nothing where the two were not asked the same number of questions, or are not counted alike.
    """
    if _counted(before, column) != _counted(after, column):
        return Cell()
    first, second = _metric(before, column), _metric(after, column)
    if not first or not second or first["value"] is None or second["value"] is None or first["n"] != second["n"]:
        return Cell()
    interval = None
    if first["items"] and second["items"]:
        a, b = ([float(value) for value in metric["items"].split()] for metric in (first, second))
        scales = [metric["value"] * len(v) / sum(v) for metric, v in ((first, a), (second, b)) if sum(v)]
        if len(a) == len(b) and scales:
            low, high = paired_difference_interval(a, b)
            interval = (scales[0] * low, scales[0] * high)
    return Cell(second["value"] - first["value"], interval, difference=True)


def to_markdown(sections: Sequence[Section]) -> str:
    """The tables in GitHub's Markdown."""
    parts = []
    for section in sections:
        lines = [f"## {section.title}", "", _line(["", *section.columns]), _line(["---"] * (len(section.columns) + 1))]
        for row in section.rows:
            name = f"**{row.name}**" if row.ours else row.name
            lines.append(_line([name, *(_text(cell) for cell in row.cells)]))
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, NOTE]) + "\n"


NOTE = (
    "Small print: intervals are 95 % bootstrap intervals over the benchmark's items. The paper gives none, so a "
    "difference from it carries ours alone and is really less certain. A difference between two runs is taken on the "
    "same items where the metric is a mean of items."
)


def to_html(sections: Sequence[Section], title: str = "Benchmarks") -> str:
    """One self-contained page."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        header = [("", ""), *((column, "num") for column in section.columns)]
        rows = [_html_name(row) + "".join(_html_cell(cell) for cell in row.cells) for row in section.rows]
        body.append(f"<section><h2>{html.escape(section.title)}</h2>{html.table(header, rows)}</section>")
    body.append(f"<p>{html.escape(NOTE)}</p>")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{CSS}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def write_benchmark_report(runs: Mapping[str, Results], folder: str | os.PathLike[str]) -> list[Path]:
    """Write `benchmarks.md` and `benchmarks.html` into `folder`."""
    sections, folder = build_sections(runs), Path(folder)
    paths = []
    for name, text in (("benchmarks.md", to_markdown(sections)), ("benchmarks.html", to_html(sections))):
        write_text(folder / name, text)
        paths.append(folder / name)
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
        return "–"
    extra = ", ".join(part for part in (_range(cell), cell.note) if part)
    return _number(cell.value, cell.difference) + (f" ({extra})" if extra else "")


def _html_name(row: Row) -> str:
    name = html.escape(row.name)
    return f"<td><b>{name}</b></td>" if row.ours else f"<td>{name}</td>"


def _html_cell(cell: Cell) -> str:
    if cell.value is None:
        return '<td class="num">–</td>'
    kind = ""
    if cell.difference and cell.interval and (cell.interval[0] > 0 or cell.interval[1] < 0):
        kind = "up" if cell.value > 0 else "down"
    below = ", ".join(part for part in (_range(cell), cell.note) if part)
    number = html.escape(_number(cell.value, cell.difference))
    return f'<td class="num"><span class="{kind}">{number}</span><span class="ci">{html.escape(below)}</span></td>'
