"""Runs side by side: benchmarks beside the paper's tables, or held-out rows with a verdict on each domain.

A run is a folder that `llava-mocle eval` wrote (or its results.json); name it with NAME=FOLDER. The first run is what
the others are compared with, question by question. Markdown on the screen, Markdown and HTML in files.

examples:
  llava-mocle report runs/mocle/eval
  llava-mocle report lora=runs/lora/eval mocle=runs/mocle/eval --output runs/report
  llava-mocle report runs/compare --html        the page of a `llava-mocle compare`, with what is in its figures folder
"""

import argparse
import os
from pathlib import Path

from llava_mocle.io.paths import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a folder with results.json, or NAME=FOLDER")
    parser.add_argument(
        "--output", type=user_path, help="folder for benchmarks.md or held_out.md, and .html; without it, print only"
    )
    parser.add_argument(
        "--html",
        action="store_true",
        help="RUN is the folder of a `llava-mocle compare`: write its report.html anew, one page with all tables and "
        "every picture of its figures folder, which needs no network",
    )


def run(args: argparse.Namespace) -> int:
    from llava_mocle.analysis.benchmark_report import to_markdown, write_report_files
    from llava_mocle.analysis.benchmark_sections import build_sections
    from llava_mocle.analysis.held_out import held_out_section
    from llava_mocle.errors import ConfigError
    from llava_mocle.evaluation.scores.results import HELD_OUT_KIND, KIND, read_results
    from llava_mocle.io.folders import make_folder

    if args.html:
        return _write_page(args)
    if args.output:
        make_folder(args.output)
    runs = {}
    for word in args.runs:
        name, folder = _name_and_folder(word)
        results = read_results(folder, KIND, HELD_OUT_KIND)
        name = name or str(results["model_id"]).partition("@")[0] or Path(folder).name
        if name in runs:
            raise ConfigError(f"two runs are named {name!r}; name them: NAME=FOLDER.")
        runs[name] = results
    kinds = {results["kind"] for results in runs.values()}
    if len(kinds) > 1:
        raise ConfigError("these runs are of benchmarks and of held-out rows; give runs of one kind.")
    held_out = kinds == {HELD_OUT_KIND}
    sections = [held_out_section(runs)] if held_out else build_sections(runs)
    print(to_markdown(sections), end="")
    if args.output:
        for path in write_report_files(sections, args.output, "held_out" if held_out else "benchmarks"):
            print(path)
    return 0


def _write_page(args: argparse.Namespace) -> int:
    from llava_mocle.analysis.experiment_page import write_experiment_page
    from llava_mocle.errors import ConfigError

    if len(args.runs) > 1 or args.output:
        raise ConfigError(
            "--html takes the folder of one experiment, and writes report.html there; leave out the rest."
        )
    print(write_experiment_page(Path(user_path(args.runs[0]))))
    return 0


def _name_and_folder(word: str) -> tuple[str, str]:
    """NAME and FOLDER of NAME=FOLDER. NAME is "" where there is a folder alone. Both may hold "=" (runs/lr=1e-4)."""
    whole = ("", user_path(word))
    splits = [(word[:place], user_path(word[place + 1 :])) for place, letter in enumerate(word[:-1]) if letter == "="]
    for name, folder in (whole, *splits):
        if os.path.exists(folder):  # unlike Path.exists, it takes every name
            return name, folder
    return splits[0] if splits and "/" not in splits[0][0] else whole
