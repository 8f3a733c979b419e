"""The report of a comparison in Markdown, and the same numbers as JSON and CSV."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.analysis.markdown import markdown_table
from llava_mocle.analysis.style import save_table
from llava_mocle.experiment.comparison import MEAN
from llava_mocle.experiment.methods import OURS
from llava_mocle.io.files import write_text

JSON_FILE, CSV_FILE, REPORT_FILE = "comparison.json", "comparison.csv", "REPORT.md"
SPLIT_TITLES = {
    "test": "Test rows",
    "held_out": "Held-out instructions (zero-shot)",
    "validation": "Validation rows",
}
_FAIRNESS = {
    "exposure": "All methods saw the same samples of each domain; each has its own size.",
    "activated": "All methods saw the same samples of each domain, and a sample passes through the same rank.",
    "total": "All methods saw the same samples of each domain, and their adapters have the same rank in all.",
}
_STEPS = {
    "share": "A single-domain run took its domain's share of the steps.",
    "all": "A single-domain run took as many steps as the others, so it saw its domain more often.",
}
Result = Mapping[str, Any]


def write_comparison(result: Result, folder: Path) -> str:
    """Write `comparison.json`, `comparison.csv` and `REPORT.md` into a folder; returns the report.

    Args:
        result: what `experiment.comparison.compare` returns.
    """
    text = to_markdown(result)
    write_text(folder / JSON_FILE, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    save_table(folder / CSV_FILE, ("split", "method", "ablation", "label", "domain", "seed", "score"), _rows(result))
    write_text(folder / REPORT_FILE, text)
    return text


def _rows(result: Result) -> Iterator[tuple[Any, ...]]:
    """A line for every score of a seed. Shares from 0 to 1."""
    for split, found in result["splits"].items():
        ablated = [(name, entry) for name, entries in found["ablations"].items() for entry in entries]
        for method, ablation, label, scores in [
            *((name, "", "", scores) for name, scores in found["scores"].items()),
            *((OURS, name, entry["label"], entry) for name, entry in ablated),
        ]:
            for domain, of in scores["domains"].items():
                for seed, score in zip(scores["seeds"], of["by_seed"], strict=True):
                    yield split, method, ablation, label, domain, seed, f"{score:.6f}"


def reported_splits(result: Result) -> list[str]:
    """The splits in the order of the report: what it is about first, and validation last."""
    return [split for split in SPLIT_TITLES if split in result["splits"] and result["splits"][split]["scores"]]


def to_markdown(result: Result) -> str:
    """The whole report."""
    return (
        "\n\n".join(
            ["# Comparison", *introduction(result), *_splits(result), *_costs(result), *_searches(result), NOTES]
        )
        + "\n"
    )


NOTES = (
    "Intervals are 95 % intervals over questions and seeds (docs/compare.md defines them); with one seed, over "
    "questions alone. Each is of one number. Of twenty differences that are really 0, one is expected to be told apart."
)


def introduction(result: Result) -> Iterator[str]:
    """What was compared, and what is missing: paragraphs."""
    yield f"Domains: {', '.join(result['domains'])}. Score: {result['metric']}, in percent."
    yield f"{_FAIRNESS[result['fairness']]} {_STEPS[result['single_domain_steps']]}"
    for names in _same_runs(result):
        yield f"{', '.join(names)} come out the same here: they share their runs."
    if result["missing"]:
        yield (
            f"{len(result['missing'])} runs are missing, and what follows is of the others: "
            f"{', '.join(result['missing'])}."
        )
    if "test" not in result["splits"]:
        yield "There are no test rows: everything here is on the validation rows, by which rates were chosen too."


def _same_runs(result: Result) -> list[list[str]]:
    """Groups of methods that have the same runs."""
    groups: dict[frozenset[str], list[str]] = {}
    for name, of in result["methods"].items():
        if of["ablation"] is None and of["runs"]:
            groups.setdefault(frozenset(of["runs"].values()), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _splits(result: Result) -> Iterator[str]:
    for split in reported_splits(result):
        found = result["splits"][split]
        counts = ", ".join(f"{domain} {count:,}" for domain, count in found["n"].items())
        yield f"## {SPLIT_TITLES[split]}"
        yield f"Questions: {counts}."
        yield verdict_lines(found["verdicts"])
        yield markdown_table(*score_table(found))
        for other, methods in found["differences"].items():
            yield f"### Differences from {other}, in points"
            yield markdown_table(*difference_table(found, methods))
        if found["shares"]:
            yield "### Share of the gap recovered"
            yield (
                f"(method - {result['baseline']}) / ({result['single_domain']} - {result['baseline']}), in percent: 0 "
                "is as good as one LoRA for all, 100 as good as a LoRA a domain."
            )
            yield markdown_table(*share_table(found["shares"]))
        for name, entries in found["ablations"].items():
            yield f"### Ablation: {name}"
            yield markdown_table(*ablation_table(name, entries))


def verdict_lines(verdicts: Sequence[Mapping[str, str]]) -> str:
    """The answers, as a list."""
    return "\n".join(f"- {one['question']} **{one['answer'].capitalize()}**: {one['because']}" for one in verdicts)


Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def score_table(found: Mapping[str, Any]) -> Table:
    """A line a method: mean, s.d. over seeds and interval in each domain, and of their mean."""
    domains = [*found["n"], MEAN]
    rows = [
        [name, str(len(scores["seeds"])), *(_score(scores["domains"][domain]) for domain in domains)]
        for name, scores in found["scores"].items()
    ]
    return ("method", "seeds", *domains), rows


def difference_table(found: Mapping[str, Any], methods: Mapping[str, Any]) -> Table:
    """A line a method: its difference from another in each domain, and of the mean."""
    domains = [*found["n"], MEAN]
    rows = [[name, *(_points(of[domain]) for domain in domains)] for name, of in methods.items()]
    return ("method", *domains), rows


def share_table(shares: Mapping[str, Any]) -> Table:
    """A line a domain, and one of the mean: the gap, and each method's share of it."""
    names = list(dict.fromkeys(name for of in shares.values() for name in of["of"]))
    rows = []
    for domain, of in shares.items():
        cells = [_share(of["of"][name]) if name in of["of"] else "no gap to recover" for name in names]
        rows.append([domain, _points(of["gap"]), *(cells or ["no gap to recover"])])
    return ("domain", "gap, points", *(names or ["share"])), rows


def ablation_table(name: str, entries: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each value that was tried."""
    domains = list(entries[0]["domains"])
    rows = [
        [str(entry["label"]), str(len(entry["seeds"])), *(_score(entry["domains"][domain]) for domain in domains)]
        for entry in entries
    ]
    return (name, "seeds", *domains), rows


def cost_table(result: Result) -> Table:
    """A line a method: what it is, what it trains, and what a seed of it took."""
    rows = []
    for name, of in result["methods"].items():
        if of["ablation"] is None and "trainable" in of:
            experts = of["experts"]
            rows.append(
                [
                    name,
                    of["about"],
                    f"{of['rank']} x {experts['total']}",
                    f"{of['trainable']:,}",
                    f"{of['activated']:,}",
                    f"{of['experts_activated']:,}",
                    f"{of['learning_rate']:g}",
                    f"{of['train_seconds'] / 60:.1f}",
                    f"{of['eval_seconds'] / 60:.1f}",
                    f"{of['peak_mib']:,.0f}",
                ]
            )
    heads = (
        "method", "what it is", "rank x experts", "trainable", "activated", "of these in experts", "learning rate",
        "training, min", "answering, min", "memory, MiB",
    )  # fmt: skip
    return heads, rows


def _costs(result: Result) -> Iterator[str]:
    heads, rows = cost_table(result)
    if rows:
        yield "## What each method took"
        yield markdown_table(heads, rows)
        yield (
            "Parameters are counted in the saved weights. Trainable and minutes are of one seed; of single-domain "
            "LoRAs, of all domains together. Activated: what a sample passes through, with router and projector whole. "
            "Memory is the largest resident memory of a training process, not a GPU's."
        )


def search_table(result: Result) -> Table:
    """A line a method: the validation score of each learning rate, and the one that was chosen."""
    rates = sorted({rate for search in result["searches"].values() for rate, _ in search["tried"]})
    rows = []
    for name, search in result["searches"].items():
        tried = dict(map(tuple, search["tried"]))
        cells = ["–" if tried.get(rate) is None else f"{100 * tried[rate]:.1f}" for rate in rates]
        rows.append([name, *cells, "–" if search["chosen"] is None else f"{search['chosen']:g}"])
    return ("method", *(f"{rate:g}" for rate in rates), "chosen"), rows


def _searches(result: Result) -> Iterator[str]:
    if result["searches"]:
        yield "## The learning rates that were searched"
        yield "Mean of the domains' validation scores, in percent, of each method's first seed."
        yield markdown_table(*search_table(result))


def _score(of: Mapping[str, Any]) -> str:
    spread = "" if of["sd"] is None else f" ± {100 * of['sd']:.1f}"
    return f"{100 * of['value']:.1f}{spread}{_between(of['interval'], '.1f')}"


def _points(of: Mapping[str, Any]) -> str:
    return f"{100 * of['value']:+.1f}{_between(of['interval'], '+.1f')}"


def _share(of: Mapping[str, Any]) -> str:
    return f"{100 * of['value']:.0f}{_between(of['interval'], '.0f')}"


def _between(interval: Sequence[float] | None, form: str) -> str:
    return "" if interval is None else f" ({100 * interval[0]:{form}} to {100 * interval[1]:{form}})"
