"""Score a model on held-out rows: exact match per domain and per cluster, beside what needs no model at all.

Writes answers/<domain>.jsonl (LLaVA's answer format, continued where an earlier run stopped) and results.json.

examples:
  llava-mocle eval --model playground/runs/mocle --recipe scripts/recipes/playground_mocle.yaml --output out
  llava-mocle eval --model runs/mine --rows test.json --image-folder images --train-rows train.json --output out
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_mocle.cli.model_flags import add_model_flags, load_predictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a trained checkpoint, a stage-1 folder or a base folder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--recipe", help="score the held-out rows (eval_data_path) of this recipe's datasets")
    source.add_argument("--rows", help="score this file of LLaVA rows (JSON or JSONL)")
    parser.add_argument("--image-folder", default="", help="with --rows: the folder its image paths start from")
    parser.add_argument("--train-rows", help="with --rows: training rows, for the majority answer")
    parser.add_argument("--output", required=True, help="folder for answers and results.json")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows of each domain")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--num-beams", type=int, default=1)
    add_model_flags(parser)
    parser.add_argument("--overwrite", action="store_true", help="answer everything anew")


def run(args: argparse.Namespace) -> int:
    from llava_mocle.errors import ConfigError

    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit {args.limit}: must be at least 1.")
    domains, train_rows = _recipe_rows(args.recipe) if args.recipe else _file_rows(args)

    from llava_mocle.evaluation.domain import evaluate_rows

    predictor = load_predictor(args)
    results = evaluate_rows(
        predictor,
        domains,
        args.output,
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        num_beams=args.num_beams,
        train_rows=train_rows,
        limit=args.limit,
        overwrite=args.overwrite,
    )
    print_results(results)
    print(f"{Path(args.output) / 'results.json'}")
    return 0


def print_results(results: Mapping[str, Any]) -> None:
    """A table of the domains, and one of the clusters where there are any."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
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


def _recipe_rows(recipe_path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    from llava_mocle.data.rows import read_rows
    from llava_mocle.errors import ConfigError
    from llava_mocle.training.recipe import load_recipe

    specs = load_recipe(recipe_path).data.dataset_specs()
    domains = {spec.name: (read_rows(spec.eval_data_path), spec.image_folder) for spec in specs if spec.eval_data_path}
    if not domains:
        raise ConfigError(
            f"{recipe_path}: no dataset has an eval_data_path, so there is nothing held out to score. Add one to a "
            f"dataset, or give the rows with --rows."
        )
    return domains, {spec.name: read_rows(spec.data_path) for spec in specs if spec.name in domains}


def _file_rows(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any] | None]:
    from llava_mocle.data.rows import read_rows

    name = Path(args.rows).stem
    train_rows = {name: read_rows(args.train_rows)} if args.train_rows else None
    return {name: (read_rows(args.rows), args.image_folder)}, train_rows


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.1f}"


def _interval(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
