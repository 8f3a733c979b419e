"""What runs of benchmarks come to, beside the paper's tables: numbers, intervals, differences and their small print."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_mocle.analysis.paper_tables import TABLES, Column, PaperTable
from llava_mocle.evaluation.registry import all_tasks
from llava_mocle.evaluation.scores.results import judge_name, other_official_n, unparsed_words
from llava_mocle.evaluation.scores.statistics import paired_difference_interval
from llava_mocle.evaluation.tasks.medical_qa import LEGACY

Results = Mapping[str, Any]
OTHER_SCORER = "another scorer"


@dataclass(frozen=True)
class Cell:
    """A number and its interval; a difference where it is one. Without a value: nothing to show, the note says why."""

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
    """A table ready to be written, and what stands below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


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
        cells = tuple(_from_paper(run, column, value) for column, value in zip(table.columns, paper, strict=True))
        rows.append(Row(f"{name} - paper's {table.compared}", cells, ours=True))
    first, *others = runs
    for name in others:
        cells = tuple(_paired(runs[first], runs[name], column) for column in table.columns)
        rows.append(Row(f"{name} - {first}", cells, ours=True))
    labels = tuple(column.label for column in table.columns)
    return Section(table.title, labels, tuple(rows), tuple(_notes(runs, table.columns)))


def _other_section(columns: Sequence[Column], runs: Mapping[str, Results]) -> Section:
    """Benchmarks in lines, as there are many: one column a run."""
    names, rows = list(runs), []
    for column in columns:
        cells = [_cell(runs[name], column) for name in names]
        cells += [_paired(runs[names[0]], runs[name], column) for name in names[1:]]
        rows.append(Row(column.label, tuple(cells), ours=True))
    heads = (*names, *(f"{name} - {names[0]}" for name in names[1:]))
    return Section("Other benchmarks and metrics", heads, tuple(rows), tuple(_notes(runs, columns)))


def _cell(run: Results, column: Column) -> Cell:
    metric = _metric(run, column)
    if metric is None or metric["value"] is None or math.isnan(metric["value"]):
        return Cell()
    entry = run["tasks"][column.task]
    notes = [f"first {entry['limit']}"] if entry["limit"] else []
    notes += ["†"] if other_official_n(entry) is not None else []
    whole = _is_headline(run, column) and metric["n"] == entry["n"]
    notes += [unparsed_words(entry, f"{entry['unparsed']} unparsed")] if entry["unparsed"] and whole else []
    notes += ["as LLaVA-Med counts"] if _counted(run, column) != column.metric else []
    notes += [] if _scored_like(entry, column) else [OTHER_SCORER]
    interval = tuple(metric["interval"]) if metric["interval"] else None
    return Cell(metric["value"], interval, note=", ".join(notes))


def _scored_like(entry: Mapping[str, Any], column: Column) -> bool:
    """Whether an entry is by the scorer of the published number, or by one that is still in use."""
    scorer = entry.get("scorer", "")
    if column.scorer is not None:
        return bool(scorer == column.scorer)
    return not _by_an_older_scorer(column.task, entry)


def _by_an_older_scorer(task: str, entry: Mapping[str, Any]) -> bool:
    known = all_tasks().get(task)
    return known is not None and entry.get("scorer", "") not in known.scorers


def _is_headline(run: Results, column: Column) -> bool:
    return bool(run["tasks"][column.task]["headline"] == _counted(run, column))


def _notes(runs: Mapping[str, Results], columns: Sequence[Column]) -> Iterator[str]:
    """What is to be said of a benchmark and not of one number; unparsed answers below the table of the headline."""
    for name, run in runs.items():
        for task in dict.fromkeys(column.task for column in columns if _cell(run, column).value is not None):
            entry = run["tasks"][task]
            place = f"{name}, {entry['title']} ({entry['split']})"
            published = other_official_n(entry)
            if published is not None:
                yield f"† {place}: {entry['n']} questions; n differs from the published {published}."
            headline = next((c for c in columns if c.task == task and _is_headline(run, c)), None)
            metric = _metric(run, headline) if headline else None
            if entry["unparsed"] and metric and metric["n"] != entry["n"]:
                told = unparsed_words(entry, f"{entry['unparsed']} of all {entry['n']} answers unparsed")
                yield f"{place}: {told}."
            judge = entry["settings"].get("judge")
            if judge is not None:
                yield f"{place}: graded by {judge_name(judge)}."
            own = [column for column in columns if column.task == task]
            if not all(_scored_like(entry, column) for column in own):
                yield f"{place}: {_another_scorer(task, entry, own)}"


def _another_scorer(task: str, entry: Mapping[str, Any], columns: Sequence[Column]) -> str:
    if not entry.get("scorer") or _by_an_older_scorer(task, entry):
        return (
            "scored by an older version of llava-mocle, whose numbers do not compare with these. The command that made "
            "the scores, given again, scores the stored answers anew."
        )
    published = next(column.scorer for column in columns if column.scorer)
    return f"scored by {entry['scorer']}; published numbers are by {published}."


def _from_paper(run: Results, column: Column, paper: float | None) -> Cell:
    """Our number less the paper's; nothing where they are by two scorers."""
    cell = _cell(run, column)
    if cell.value is None or paper is None:
        return Cell()
    if not _scored_like(run["tasks"][column.task], column):
        return Cell(note=OTHER_SCORER)
    # The paper gives no interval, so its number is taken as it stands: the true interval is wider.
    interval = None if cell.interval is None else (cell.interval[0] - paper, cell.interval[1] - paper)
    return Cell(cell.value - paper, interval, difference=True, note=cell.note)


def _paired(before: Results, after: Results, column: Column) -> Cell:
    """The difference, with an interval over the same items where the metric is a mean of items.

    Nothing where the two were not asked the same number of questions, or are not counted, scored or judged alike.
    """
    first, second = _metric(before, column), _metric(after, column)
    if not first or not second or first["value"] is None or second["value"] is None:
        return Cell()
    one, other = before["tasks"][column.task], after["tasks"][column.task]
    if first["n"] != second["n"]:
        return Cell(note=f"{second['n']} items, and {first['n']}")
    if _counted(before, column) != _counted(after, column):
        return Cell(note="counted in two ways")
    if one.get("scorer", "") != other.get("scorer", ""):
        return Cell(note="two scorers")
    if one["settings"].get("judge") != other["settings"].get("judge"):
        return Cell(note="two judges")
    interval, note = None, _not_paired(one, other)
    if first["items"] and second["items"] and not note:
        a, b = ([float(value) for value in metric["items"].split()] for metric in (first, second))
        scales = [metric["value"] * len(v) / sum(v) for metric, v in ((first, a), (second, b)) if sum(v)]
        if len(a) == len(b) and scales:
            low, high = paired_difference_interval(a, b)
            interval = (scales[0] * low, scales[0] * high)
    return Cell(second["value"] - first["value"], interval, difference=True, note=note)


def _not_paired(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Why two entries of a benchmark cannot be compared item by item; "" where they can."""
    first, second = one.get("items_digest"), other.get("items_digest")
    if first is None or second is None:
        return "unpaired: questions not recorded"
    return "" if first == second else "unpaired: other questions, prompts or references"
