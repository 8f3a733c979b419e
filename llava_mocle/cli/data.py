"""Make rows of datasets' official files, and validate rows and images before training.

examples:
  llava-mocle data check scripts/recipes/playground_mocle.yaml
  llava-mocle data check --rows train.json --image-folder images/
  llava-mocle data make                                          # which datasets there are
  llava-mocle data make slake                                    # where its files come from
  llava-mocle data make slake --source downloads/slake --output data/slake.json
"""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from llava_mocle.cli import data_make
from llava_mocle.io.paths import user_path

if TYPE_CHECKING:
    from rich.console import Console

    from llava_mocle.data.check import DatasetReport
    from llava_mocle.data.mixture import DatasetSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="read every row and image of a recipe, or of one file",
        description="Prints a table and the first offenders. Exit code 0: everything can be trained on; 1: problems "
        "were found.",
        allow_abbrev=False,
    )
    check.add_argument(
        "recipe", type=user_path, nargs="?", metavar="RECIPE", help="the recipe whose datasets are checked"
    )
    check.add_argument(
        "--rows", type=user_path, metavar="FILE", help="a file of rows (JSON or JSONL) in place of a recipe"
    )
    check.add_argument(
        "--image-folder", type=user_path, metavar="DIR", help="with --rows: what image paths are relative to"
    )
    check.add_argument("--no-images", action="store_true", help="don't open the images")
    check.add_argument("--workers", type=int, default=4, metavar="N", help="threads that open images (default: 4)")
    check.add_argument("--limit", type=int, default=10, metavar="N", help="offenders shown a dataset (default: 10)")
    check.add_argument(
        "--allow-duplicate-ids", action="store_true", help="an id that occurs twice in a file is no problem"
    )
    data_make.add_parser(actions)


def run(args: argparse.Namespace) -> int:
    return data_make.make(args) if args.action == "make" else _check(args)


def _check(args: argparse.Namespace) -> int:
    from llava_mocle.data.check import check_datasets
    from llava_mocle.io.console import say, table_console

    console = table_console()
    specs, aspect_ratio = _specs(args)
    with _progress() as progress:
        reports = check_datasets(
            specs,
            images=not args.no_images,
            workers=args.workers,
            allow_duplicate_ids=args.allow_duplicate_ids,
            aspect_ratio=aspect_ratio,
            progress=progress,
        )
    _print_table(console, reports, images=not args.no_images)
    _print_offenders(console, reports, args.limit)
    if args.rows and not args.image_folder and any(report.by_kind["missing image"] for report in reports):
        say(console, f"\nNo --image-folder was given, so images were looked for from {os.getcwd()}.")
    return int(any(report.problems for report in reports))


def _specs(args: argparse.Namespace) -> "tuple[list[DatasetSpec], str]":
    """The datasets to check, and the `image_aspect_ratio` to check their images for: LLaVA's where none is given."""
    from llava_mocle.data.mixture import DatasetSpec
    from llava_mocle.errors import ConfigError

    if bool(args.recipe) == bool(args.rows):
        raise ConfigError("give either a recipe or --rows FILE (with --image-folder DIR)")
    if args.rows:
        return [DatasetSpec.single(args.rows, args.image_folder or "")], "pad"
    if args.image_folder:
        raise ConfigError("--image-folder goes with --rows; a recipe names its image folders itself")
    from llava_mocle.recipe.recipe import load_recipe

    data = load_recipe(args.recipe).data
    return data.dataset_specs(), data.image_aspect_ratio or "pad"


@contextmanager
def _progress() -> "Iterator[Callable[[str, int, int], None]]":
    """Reports progress on standard error, so that the table can be piped: (dataset, images opened, images in all)."""
    from llava_mocle.io.progress import Progress, progress

    with ExitStack() as stack:
        bars: dict[str, Progress] = {}
        opened: dict[str, int] = {}

        def report(dataset: str, done: int, total: int) -> None:
            if dataset not in bars:
                bars[dataset] = stack.enter_context(progress(total, f"images of {dataset}", "image"))
            bars[dataset].update(done - opened.get(dataset, 0))
            opened[dataset] = done

        yield report


def _print_table(console: "Console", reports: "list[DatasetReport]", images: bool) -> None:
    from rich.table import Table

    from llava_mocle.io.console import print_table

    table = Table(title="rows" if images else "rows (images not opened)", title_justify="left")
    table.add_column("dataset", no_wrap=True)
    for column in ("rows", "images", "text only", "turns", "problems"):
        table.add_column(column, justify="right")
    table.add_column("by kind")
    for dataset in reports:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in dataset.by_kind.most_common())
        counts = (dataset.rows, dataset.images, dataset.text_only, dataset.turns, len(dataset.problems))
        table.add_row(dataset.name, *(f"{count:,}" for count in counts), kinds or "none")
    print_table(console, table)


def _print_offenders(console: "Console", reports: "list[DatasetReport]", limit: int) -> None:
    from llava_mocle.io.console import say

    for dataset in reports:
        for title, found in (("problem", dataset.problems), ("remark", dataset.remarks)):
            if not found:
                continue
            plural = title if len(found) == 1 else f"{title}s"
            say(console, f"\n{dataset.path}: {len(found):,} {plural}")
            for problem in found[: max(0, limit)]:
                line = f"  [{problem.kind}] {problem.describe()}"
                say(console, line)
            if len(found) > limit:
                say(console, f"  ... and {len(found) - limit:,} more (--limit)")
