"""Train one LoRA a domain, LoRAs for all domains, every router and MoCLE on your data, and say what is better.

One YAML declares it; every run is a folder of its own, and what is done is not done again. Then the report: scores of
every domain with their spread over seeds, differences with 95 % intervals, and a verdict in words: do the domains
harm each other, and does MoCLE win it back? "No" and "cannot be told with these seeds" are answers.

a YAML to start from (docs/compare.md explains it, and the statistics):

  recipe: my_recipe.yaml          # an ordinary recipe; its datasets, each with eval_data_path, are the domains
  output_dir: runs/compare
  test: {cars: cars_test.json, birds: birds_test.json}      # what is reported; eval_data_path is for choosing
  methods: [single_domain, lora_activated, mocle]           # leave it out: all ten
  seeds: 3
  learning_rates: [1.0e-4, 2.0e-4]                          # chosen for each method by validation, with one seed

examples:
  llava-mocle compare compare.yaml --list            every run, and how far it is; starts nothing
  llava-mocle compare compare.yaml                   runs it: one run at a time, or one for each GPU
  llava-mocle compare compare.yaml --jobs 2          two at a time
  llava-mocle compare compare.yaml --only mocle      the runs of one method
  llava-mocle compare compare.yaml --slurm           writes a script that submits every run as a job of its own
  llava-mocle compare compare.yaml --report-only     writes the report of the runs that are done

exit code: 0, or 1 where a run failed or is missing in the report.
"""

import argparse
import dataclasses
import signal
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.io.paths import user_path

if TYPE_CHECKING:
    from llava_mocle.experiment.execute import Executor, Failure
    from llava_mocle.experiment.experiment import Experiment
    from llava_mocle.experiment.grid import Grid
    from llava_mocle.experiment.processes import Processes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from llava_mocle.experiment.design import KEEP, Design, EvalDesign

    parser.add_argument("design", type=user_path, metavar="YAML", help="what is compared")
    what = parser.add_argument_group("what to do")
    one = what.add_mutually_exclusive_group()
    one.add_argument("--list", action="store_true", help="print every run with its number and how far it is, and stop")
    one.add_argument("--slurm", action="store_true", help="write compare.sbatch, which submits a job a run, and stop")
    one.add_argument("--run", type=int, metavar="N", help="carry out run number N of --list alone, without a report")
    one.add_argument("--report-only", action="store_true", help="write the report of what is done, and stop")
    what.add_argument(
        "--only", action="append", metavar="METHOD", help="runs of this method (or ablation, K=4) alone; repeatable"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--jobs", type=int, metavar="N", help="runs at a time; default: one a GPU, or one")
    how.add_argument("--overwrite", action="store_true", help="make runs anew that were made of another recipe")
    how.add_argument(
        "--keep-weights",
        choices=KEEP,
        default=KEEP[0],
        help="of finished runs; best (the default): of each method those of the seed with the best validation score; "
        "scores, answers and logs are always kept",
    )
    groups = ((Design, "keys of the YAML"), (EvalDesign, "keys of eval"))
    parser.epilog = "\n\n".join(_described(group, title) for group, title in groups)


def _described(group: type, title: str) -> str:
    lines = [f"{title}:"]
    for item in dataclasses.fields(group):
        if "help" not in item.metadata:
            continue
        usual = item.default if isinstance(item.default, (str, int)) else None
        text = textwrap.wrap(item.metadata["help"] + (f" [{usual}]" if usual is not None else ""), width=86)
        lines += [f"  {item.name:<20} {text[0]}", *(f"{'':<23}{more}" for more in text[1:])]
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    from llava_mocle.errors import ConfigError
    from llava_mocle.experiment.design import read_design
    from llava_mocle.experiment.experiment import Experiment
    from llava_mocle.experiment.grid import Grid
    from llava_mocle.io.folders import make_folder

    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}: must be at least 1")
    grid = Grid(read_design(args.design))
    experiment = Experiment(grid, args.only)
    if args.list:
        _print_list(experiment)
        return 0
    make_folder(grid.root)
    if args.slurm:
        return _write_slurm(experiment, args)
    if args.report_only:
        return _report(grid, experiment)
    failures = _carry_out(experiment, args)
    if args.run is not None:
        return 1 if failures else 0
    code = _report(grid, experiment)
    return 1 if failures else code


def _carry_out(experiment: "Experiment", args: argparse.Namespace) -> "list[Failure]":
    """Do the runs; the failures are printed, and returned.

    Raises:
        Preempted: a signal came; the runs that were at work have saved what they can.
    """
    from llava_mocle.errors import ConfigError, Preempted
    from llava_mocle.experiment.execute import Executor
    from llava_mocle.experiment.processes import Processes

    if not args.overwrite:
        experiment.refuse_changed(experiment.search() | experiment.report_runs(experiment.searches()))
    processes = Processes()
    devices = _devices()
    jobs = args.jobs or max(1, len(devices))
    executor = Executor(processes, jobs, devices, args.overwrite, say=lambda line: print(line, flush=True))
    with _passing_signals_on(processes):
        if args.run is None:
            experiment.carry_out(executor, args.keep_weights)
        else:
            listed = experiment.listed()
            if not 0 <= args.run < len(listed):
                raise ConfigError(f"--run {args.run}: there are runs 0 to {len(listed) - 1}; --list shows them")
            folder = experiment.folder_of(listed[args.run])
            if folder is None:
                raise ConfigError(
                    f"--run {args.run}: its learning rate is not chosen yet; first do the runs with an lr"
                )
            executor.work_through([folder])
            experiment.tidy(args.keep_weights)
    _print_failures(executor)
    if processes.stopping.is_set() and not executor.failures:
        raise Preempted("stopped by a signal; the same command goes on, and the runs at work from their checkpoints")
    return executor.failures


def _devices() -> list[str]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    import os

    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return named[:count] if named else [str(number) for number in range(count)]


@contextmanager
def _passing_signals_on(processes: "Processes") -> Iterator[None]:
    """Inside the block, SIGTERM and SIGUSR1 go to the commands that run, and start no more of them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGUSR1)

    def pass_on(number: int, frame: Any) -> None:
        # Not here: the main thread may hold the lock that stopping takes.
        threading.Thread(target=processes.stop, args=(number,)).start()

    before = [signal.signal(number, pass_on) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _print_failures(executor: "Executor") -> None:
    for failure in executor.failures:
        lines = failure.log.read_text(encoding="utf-8", errors="replace").splitlines()
        print(f"FAILED: {failure.run} in {failure.step} (exit code {failure.code}), log {failure.log}")
        print("\n".join(f"    {line}" for line in lines[-3:]), flush=True)


def _print_list(experiment: "Experiment") -> None:
    from rich.table import Table

    from llava_mocle.io.console import print_table, table_console

    table = Table()
    for column in ("number", "method", "seed", "domain", "learning rate", "state", "folder"):
        table.add_column(column, no_wrap=True)
    known = experiment.search() | experiment.report_runs(experiment.searches())
    for number, entry in enumerate(experiment.listed()):
        folder = known.get(entry)
        rate = f"{folder.run.recipe['learning_rate']:g}" if folder else "to be chosen"
        state, name = (str(folder.state()), folder.run.name) if folder else ("waits for the search", "")
        table.add_row(
            str(number), entry.variant.name, str(entry.seed), entry.domain or "all", rate, state, name
        )  # fmt: skip
    print_table(table_console(), table)


def _write_slurm(experiment: "Experiment", args: argparse.Namespace) -> int:
    from llava_mocle.experiment.slurm import write_script

    first, all_of_them = len(experiment.search()), len(experiment.listed())
    flags = [word for name in args.only or () for word in ("--only", name)]
    flags += ["--keep-weights", args.keep_weights] + (["--overwrite"] if args.overwrite else [])
    script = write_script(experiment.grid.root, Path(args.design), (first, all_of_them - first), flags)
    print(f"{script}\nsubmit it: bash {script} --partition=... --gpus=1 --time=...")
    return 0


def _report(grid: "Grid", worked_on: "Experiment") -> int:
    """Write the report of the whole grid; 1 where a run of those that were worked on is missing."""
    from llava_mocle.analysis.comparison_figures import plot_comparison
    from llava_mocle.analysis.comparison_report import REPORT_FILE, write_comparison
    from llava_mocle.analysis.experiment_page import FIGURES_FOLDER, write_experiment_page
    from llava_mocle.experiment.experiment import Experiment

    result, root = Experiment(grid).result(), grid.root
    print(write_comparison(result, root))
    plot_comparison(result, root / FIGURES_FOLDER)
    print(f"{root / REPORT_FILE}\n{write_experiment_page(root)}")
    return 1 if worked_on.missing() else 0
