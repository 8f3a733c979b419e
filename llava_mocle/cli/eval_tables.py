"""What `llava-mocle eval` prints."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llava_mocle.evaluation.scores.results import other_official_n, unparsed_words


def print_domains(results: Mapping[str, Any]) -> None:
    """A table of the domains, and one of the clusters where there are any."""
    _print(
        f"{results['model_id']}: {results['metric']}",
        ("domain", "n", "score", "95 % interval", "majority", "question prior", "unparsed"),
        [
            [
                *(name, str(domain["n"]), _percent(domain), _interval(domain)),
                *(_percent(domain["majority"]), _percent(domain["question_prior"]), str(domain["unparsed"])),
            ]
            for name, domain in results["domains"].items()
        ],
    )
    clusters = {name: cluster for name, cluster in results["clusters"].items() if name != "none"}
    if clusters:
        rows = [[name, str(found["n"]), _percent(found), _interval(found)] for name, found in clusters.items()]
        _print("by cluster", ("cluster", "n", "score", "95 % interval"), rows)


def print_tasks(results: Mapping[str, Any]) -> None:
    """A table of benchmarks, every metric with its interval. `llava-mocle report` shows the paper's numbers beside."""
    rows = []
    for task in results["tasks"].values():
        for position, (name, metric) in enumerate(task["metrics"].items()):
            title = _task_title(task) if position == 0 else ""
            unparsed = unparsed_words(task, str(task["unparsed"])) if position == 0 else ""
            value = "-" if metric["value"] is None else f"{metric['value']:.2f}"
            interval = "{:.2f} to {:.2f}".format(*metric["interval"]) if metric["interval"] else "-"
            rows.append([title, name, str(metric["n"]), value, interval, unparsed])
    _print(results["model_id"], ("benchmark", "metric", "n", "score", "95 % interval", "unparsed"), rows)


def _print(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.table import Table

    from llava_mocle.io.console import print_table, table_console

    table = Table(title=title, title_justify="left")
    for column in columns:
        words = column in ("domain", "benchmark", "metric")
        # A benchmark's title may be wrapped; names and numbers may not.
        table.add_column(column, justify="left" if words else "right", no_wrap=column != "benchmark")
    for row in rows:
        table.add_row(*row)
    print_table(table_console(), table)


def _task_title(task: Mapping[str, Any]) -> str:
    title = f"{task['title']} ({task['split']})" + (f", first {task['limit']}" if task["limit"] else "")
    published = other_official_n(task)
    return title if published is None else f"{title}, {task['n']} questions: n differs from the published {published}"


def _percent(summary: Mapping[str, Any] | None) -> str:
    return "-" if summary is None or summary["score"] is None else f"{100 * summary['score']:.1f}"


def _interval(summary: Mapping[str, Any]) -> str:
    interval = summary["interval"]
    return "-" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
