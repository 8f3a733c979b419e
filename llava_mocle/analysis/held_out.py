"""Held-out scores of several runs side by side, and what the differences say in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from llava_mocle.analysis.benchmark_sections import Cell, Row, Section
from llava_mocle.analysis.report import score_difference

Results = Mapping[str, Any]


def held_out_section(runs: Mapping[str, Results]) -> Section:
    """A line a domain: every run's exact match in percent, and its difference from the first run.

    Below the table stands, for each run but the first, on which domains it is better, worse, or cannot be told apart.

    Args:
        runs: name -> the `results.json` of held-out rows; the first is what the others are compared with.
    """
    names = list(runs)
    first, others = names[0], names[1:]
    domains = list(dict.fromkeys(domain for run in runs.values() for domain in run["domains"]))
    differences = {
        (name, domain): _difference(runs[first], runs[name], domain) for name in others for domain in domains
    }
    rows = [
        Row(
            f"{domain} ({_count(runs, domain)})",
            tuple(_score(runs[name], domain) for name in names) + tuple(differences[name, domain] for name in others),
            ours=True,
        )
        for domain in domains
    ]
    means = tuple(_percent(runs[name].get("mean")) for name in names)
    rows.append(Row("mean of the domains", means + tuple(Cell() for _ in others), ours=True))
    heads = (*names, *(f"{name} - {first}" for name in others))
    notes = [f"{name} against {first}: {_in_words(differences, name, domains)}." for name in others]
    return Section("Held-out rows, exact match in percent", heads, tuple(rows), tuple(notes))


def _count(runs: Mapping[str, Results], domain: str) -> str:
    counts = sorted({run["domains"][domain]["n"] for run in runs.values() if domain in run["domains"]})
    return f"n = {' and '.join(f'{count:,}' for count in counts)}"


def _score(run: Results, domain: str) -> Cell:
    entry = run["domains"].get(domain)
    return Cell() if entry is None else _percent(entry["score"], entry["interval"])


def _percent(value: float | None, interval: Sequence[float] | None = None, difference: bool = False) -> Cell:
    if value is None:
        return Cell()
    ends = None if interval is None else (100 * interval[0], 100 * interval[1])
    return Cell(100 * value, ends, difference=difference)


def _difference(before: Results, after: Results, domain: str) -> Cell:
    one, other = before["domains"].get(domain), after["domains"].get(domain)
    if one is None or other is None:
        return Cell()
    if one["n"] != other["n"]:
        return Cell(note=f"{other['n']} rows, and {one['n']}")
    value, interval = score_difference(one, other)
    cell = _percent(value, interval, difference=True)
    return cell if interval is not None or value is None else Cell(cell.value, None, True, "unpaired: other rows")


def _in_words(differences: Mapping[tuple[str, str], Cell], name: str, domains: Sequence[str]) -> str:
    """Which domains the 95 % intervals call better, worse and undecided."""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "not told apart": [], "not compared": []}
    for domain in domains:
        interval = differences[name, domain].interval
        if interval is None:
            groups["not compared"].append(domain)
        elif interval[0] > 0:
            groups["better"].append(domain)
        elif interval[1] < 0:
            groups["worse"].append(domain)
        else:
            groups["not told apart"].append(domain)
    return "; ".join(f"{verdict} on {', '.join(found)}" for verdict, found in groups.items() if found)
