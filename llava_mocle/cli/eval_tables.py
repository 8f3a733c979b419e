"""What `llava-mocle eval` prints."""

from collections.abc import Mapping
from typing import Any

from llava_mocle.evaluation.scores.results import other_official_n


def print_domains(results: Mapping[str, Any]) -> None:
    """A table of the domains, and one of the clusters where there are any."""
    from rich.table import Table

    from llava_mocle.cli.console import table_console

    console = table_console()
    table = Table(title=f"{results['model_id']}: {results['metric']}", title_justify="left")
    for column in ("domain", "n", "score", "95 % interval", "majority", "question prior", "unparsed"):
        table.add_column(column, justify="left" if column == "domain" else "right")
    for name, domain in results["domains"].items():
        table.add_row(
            name,
            str(domain["n"]),
            _percent(domain["score"]),
            _interval(domain["interval"]),
            _percent((domain["majority"] or {}).get("score")),
            _percent((domain["question_prior"] or {}).get("score")),
            str(domain["unparsed"]),
        )
    console.print(table)
    clusters = {name: cluster for name, cluster in results["clusters"].items() if name != "none"}
    if clusters:
        table = Table(title="by cluster", title_justify="left")
        for column in ("cluster", "n", "score", "95 % interval"):
            table.add_column(column, justify="right")
        for name, cluster in clusters.items():
            table.add_row(name, str(cluster["n"]), _percent(cluster["score"]), _interval(cluster["interval"]))
        console.print(table)


def print_tasks(results: Mapping[str, Any]) -> None:
    """A table of benchmarks, every metric with its interval; the paper's numbers are `llava-mocle report`'s to show."""
    from rich.table import Table

    from llava_mocle.cli.console import table_console

    table = Table(title=results["model_id"], title_justify="left")
    for column in ("benchmark", "metric", "n", "score", "95 % interval", "unparsed"):
        table.add_column(column, justify="left" if column in ("benchmark", "metric") else "right", overflow="fold")
    for task in results["tasks"].values():
        for position, (name, metric) in enumerate(task["metrics"].items()):
            table.add_row(
                _task_title(task) if position == 0 else "",
                name,
                str(metric["n"]),
                "-" if metric["value"] is None else f"{metric['value']:.2f}",
                "-" if not metric["interval"] else "{:.2f} to {:.2f}".format(*metric["interval"]),
                str(task["unparsed"]) if position == 0 else "",
            )
    table_console().print(table)


def _task_title(task: Mapping[str, Any]) -> str:
    title = f"{task['title']} ({task['split']})" + (f", first {task['limit']}" if task["limit"] else "")
    published = other_official_n(task)
    return title if published is None else f"{title}, {task['n']} questions: n differs from the published {published}"


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.1f}"


def _interval(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
