"""One self-contained HTML page: what a run learned, on what, and how it answers."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.analysis import html
from llava_mocle.analysis.stylesheet import CSS
from llava_mocle.errors import DataError
from llava_mocle.evaluation.scores.statistics import paired_difference_interval
from llava_mocle.io.files import write_text

if TYPE_CHECKING:
    from llava_mocle.clustering import ClusterModel

Results = Mapping[str, Any]


def write_report(
    out_html: str | os.PathLike[str],
    *,
    title: str,
    before: Results | str | os.PathLike[str] | None,
    after: Results | str | os.PathLike[str],
    figures: Sequence[tuple[str, str | os.PathLike[str]]] = (),
    samples: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, Any] | None = None,
    clusters: Sequence[Mapping[str, Any]] = (),
    subtitle: str = "",
) -> Path:
    """Write the page, images inlined, so that the file can be sent to somebody as it is.

    Args:
        before, after: what `evaluate_rows` returned, or paths of `results.json`; `before` may be None.
        figures: (caption, PNG).
        samples: `domain`, `image` (path or paths), `prompt`, `reference`, `before`, `after`, `cluster`.
        facts: name -> value, shown on top.
        clusters: what `describe_clusters` gives: `cluster`, `size`, `nearest` (instructions).

    Raises:
        DataError: a results file or a figure is missing.
    """
    first = _load(before) if before is not None else None
    second = _load(after)
    for caption, picture in figures:
        if not Path(picture).is_file():
            raise DataError(f"{picture}: no such figure (for {caption!r}).")
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="lead">{html.escape(subtitle)}</p>' if subtitle else "",
        html.facts(facts or {}),
        _scores(first, second),
        _clusters(second, clusters),
        _section("Figures", "".join(html.figure(caption, picture) for caption, picture in figures)),
        _samples(samples),
        _provenance(first, second),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head><body><main>"
        f"{''.join(parts)}</main></body></html>\n"
    )
    target = Path(out_html)
    write_text(target, page)
    return target


def describe_clusters(cluster_model: "ClusterModel", examples: int = 4) -> list[dict[str, Any]]:
    """Number of training rows and nearest instructions of each cluster, as `write_report` takes them."""
    return [
        {
            "cluster": cluster,
            "size": round(float(size)),
            "nearest": [example.text for example in cluster_model.nearest_examples(cluster, examples)],
        }
        for cluster, size in enumerate(cluster_model.counts)
    ]


def score_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[float | None, list[float] | None]:
    """`after - before` of two domains' scores, with a paired 95 % bootstrap interval where the items are the same."""
    if before.get("score") is None or after.get("score") is None:
        return None, None
    first, second = ([float(score) for score in str(side.get("item_scores", "")).split()] for side in (before, after))
    same_items = before.get("items_digest") == after.get("items_digest")
    paired = bool(first) and len(first) == len(second) and same_items
    interval = list(paired_difference_interval(first, second)) if paired else None
    return after["score"] - before["score"], interval


def _scores(before: Results | None, after: Results) -> str:
    header = [("domain", ""), ("n", "num"), ("majority", "num"), ("question prior", "num")]
    header += [("before", "num")] if before else []
    header += [("after", "num")] + ([("difference", "num")] if before else []) + [("0 to 100", "")]
    rows = []
    for name, second in after["domains"].items():
        first = before["domains"].get(name) if before else None
        majority, prior = second.get("majority"), second.get("question_prior")
        cells = [f"<td>{html.escape(name)}</td>", f'<td class="num">{second["n"]:,}</td>']
        cells += [html.score_cell(majority, majority and f"“{majority['answer']}”"), html.score_cell(prior)]
        if before:
            cells.append(html.score_cell(first))
        cells.append(html.score_cell(second))
        if before:
            cells.append(html.difference_cell(*score_difference(first or {}, second)))
        cells.append(html.bars_cell((first or {}).get("score"), second["score"], (majority or {}).get("score")))
        rows.append("".join(cells))
    unparsed = sum(domain.get("unparsed", 0) for domain in after["domains"].values())
    note = (
        f"Held-out {after.get('metric', 'score')}, in percent; below each score its 95 % bootstrap interval (of the "
        "difference: paired by question). Majority: the most frequent training answer, given to every question. "
        "Question prior: the most frequent training answer to the same question text, without looking. Empty answers "
        f"after training: {unparsed}."
    )
    key = (
        '<p class="note key"><i class="k-before"></i>before<i class="k-after"></i>after'
        '<i class="k-majority"></i>majority</p>'
    )
    return _section("Held-out scores", html.table(header, rows) + key + f'<p class="note">{html.escape(note)}</p>')


def _clusters(after: Results, clusters: Sequence[Mapping[str, Any]]) -> str:
    if not clusters:
        return ""
    scores = after.get("clusters", {})
    rows = []
    for entry in clusters:
        nearest = "".join(f"<li>{html.escape(text)}</li>" for text in entry.get("nearest", ()))
        scored = scores.get(str(entry["cluster"]))
        rows.append(
            f"<td>{html.escape(entry['cluster'])}</td>"
            f'<td class="num">{int(entry.get("size", 0)):,}</td>'
            f'<td class="num">{scored["n"] if scored else 0:,}</td>'
            f'{html.score_cell(scored)}<td><ul class="plain">{nearest}</ul></td>'
        )
    header = [("cluster", ""), ("training rows", "num"), ("held-out rows", "num"), ("score", "num")]
    return _section("Clusters", html.table([*header, ("instructions nearest the centre", "")], rows))


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    by_domain: dict[str, list[Mapping[str, Any]]] = {}
    for entry in samples:
        by_domain.setdefault(str(entry.get("domain", "")), []).append(entry)
    body = "".join(
        f'<h3>{html.escape(domain)}</h3><div class="samples">{"".join(html.sample(entry) for entry in entries)}</div>'
        for domain, entries in by_domain.items()
    )
    return _section("Sample answers", body)


def _provenance(before: Results | None, after: Results) -> str:
    runs = [("before", before), ("after", after)] if before else [("after", after)]
    rows = [
        f"<td>{name}</td><td>{html.escape(run.get('model_id', ''))}</td>"
        f"<td><code>{html.escape(run.get('command', ''))}</code></td>"
        for name, run in runs
        if run
    ]
    versions = ", ".join(f"{name} {version}" for name, version in after.get("versions", {}).items())
    return _section("How it was made", html.table([("", ""), ("model", ""), ("command", "")], rows)) + (
        f"<footer>{html.escape(versions)}</footer>"
    )


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{html.escape(heading)}</h2>{body}</section>" if body else ""


def _load(results: Results | str | os.PathLike[str]) -> Results:
    if isinstance(results, Mapping):
        return results
    path = Path(results)
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not a results.json ({error}); `llava-mocle eval` writes one.") from error
    if not isinstance(loaded, dict) or "domains" not in loaded:
        raise DataError(f"{path}: not a results.json of `llava-mocle eval` (it has no 'domains').")
    return loaded
