"""`llava-mocle SUBCOMMAND`: a lazy table of subcommands; turns a `UserError` into one line and an exit code."""

import argparse
import atexit
import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from llava_mocle import __version__
from llava_mocle.errors import UserError
from llava_mocle.io.ctrl_c import until_ctrl_c
from llava_mocle.io.exit_file import leave_exit_code
from llava_mocle.io.libraries import quiet_libraries
from llava_mocle.io.paths import unusable_paths_named

# name -> (module with add_arguments(parser) and run(args) -> int, one-line help)
SUBCOMMANDS = {
    "recipes": ("llava_mocle.cli.recipes", "list the recipes and DeepSpeed configurations that ship, and copy one"),
    "build": ("llava_mocle.cli.build", "join a language model and a vision tower into a LLaVA base folder"),
    "data": ("llava_mocle.cli.data", "make rows of official files; validate rows and images before training"),
    "cluster": ("llava_mocle.cli.cluster", "embed instructions, fit k-means, assign every row; inspect a result"),
    "plan": ("llava_mocle.cli.plan", "memory, hours and the command to start with, before any GPU is paid for"),
    "train": ("llava_mocle.cli.train", "train a recipe: stage 1 (projector) or stage 2 (MoCLE or a baseline)"),
    "generate": ("llava_mocle.cli.generate", "answer one prompt about one image, and say which cluster it took"),
    "chat": ("llava_mocle.cli.chat", "talk with a model in the terminal, and see where each question goes"),
    "serve": (
        "llava_mocle.cli.serve",
        "an OpenAI endpoint that routes every request to its cluster, with a page to look at",
    ),
    "eval": ("llava_mocle.cli.eval", "score a model on the paper's benchmarks, or on held-out rows"),
    "compare": (
        "llava_mocle.cli.compare",
        "single-domain LoRAs, LoRAs for all, every router and MoCLE on your data, with a verdict in words",
    ),
    "report": (
        "llava_mocle.cli.report",
        "compare runs: benchmarks beside the paper's tables, or held-out rows",
    ),
    "analyze": ("llava_mocle.cli.analyze", "figures of a run: clusters, experts, gates; do its datasets conflict?"),
    "convert": (
        "llava_mocle.cli.convert",
        "read the authors' checkpoints, LAVIS' InstructBLIP, LLaVA's LoRA folders",
    ),
    "collapse": ("llava_mocle.cli.collapse", "export one cluster as a plain LoRA adapter"),
    "export": ("llava_mocle.cli.export", "write a model as vLLM, SGLang or llama.cpp read it, with its routing"),
}

# What is kept of a subcommand that Ctrl-C ends.
_KEPT = {
    "cluster": "embeddings that were stored are kept; the same command goes on with them",
    "compare": "runs that are done are kept; the same command goes on with the others",
    "eval": "the answers so far are kept; the same command goes on with them",
    "train": "the same command goes on from the newest checkpoint, if there is one",
}

# These have everything on the disk when they return. Taking the libraries down again would take a second.
_END_AT_ONCE = ("generate", "chat", "serve", "eval")

USAGE_ERROR = 2


def _overview() -> str:
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in SUBCOMMANDS.items()]
    return "\n".join(["subcommands:", *lines, "", "`llava-mocle SUBCOMMAND --help` explains each one."])


def _subcommand_parser(name: str) -> argparse.ArgumentParser:
    module = import_module(SUBCOMMANDS[name][0])
    parser = argparse.ArgumentParser(
        prog=f"llava-mocle {name}",
        allow_abbrev=False,
        description=(module.__doc__ or SUBCOMMANDS[name][1]).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.set_defaults(_run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code.

    0: done; 1: problems found; 2: a mistake in the input; 75: preempted; 130: Ctrl-C.
    """
    parser = argparse.ArgumentParser(
        prog="llava-mocle",
        usage="llava-mocle [--version] SUBCOMMAND ...",
        description="Mixture of Cluster-conditional LoRA Experts for LLaVA-style vision-language models.",
        epilog=_overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"llava-mocle {__version__}")
    parser.add_argument("subcommand", choices=list(SUBCOMMANDS), metavar="SUBCOMMAND", help=argparse.SUPPRESS)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        parser.print_help()
        return USAGE_ERROR
    name = parser.parse_args(arguments[:1]).subcommand
    try:
        with unusable_paths_named():
            return until_ctrl_c(lambda: _run(name, arguments[1:]), _KEPT.get(name, ""))
    except UserError as error:
        leave_exit_code(error.exit_code)
        print(f"{error.label}: {error}" if error.label else str(error), file=sys.stderr)
        return error.exit_code


def _run(name: str, arguments: Sequence[str]) -> int:
    subparser = _subcommand_parser(name)
    takes_overrides = subparser.get_default("takes_overrides")
    if not takes_overrides:
        arguments = [_with_hyphens(argument) for argument in arguments]
    args, overrides = subparser.parse_known_args(arguments)
    if overrides and not takes_overrides:
        subparser.error(f"unrecognized arguments: {' '.join(overrides)}")
    args.overrides = overrides
    quiet_libraries()
    return args._run(args)


def _with_hyphens(argument: str) -> str:
    """A flag in this program's spelling. Recipe keys and train's flags have underscores, so people write both."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


def program(argv: Sequence[str] | None = None) -> None:
    """The `llava-mocle` command: run `main` and exit with its code, also where gloo's threads would abort."""
    code = 1  # Python's own exit code for an exception
    subcommand = next(iter(sys.argv[1:] if argv is None else argv), "")

    def end_at_once() -> None:
        # A thread of gloo that frees its tensors while Python shuts down aborts the process: everything is saved, but
        # the exit code would say that the run failed. What is registered first is called last, so all libraries have
        # cleaned up by then.
        dist = getattr(sys.modules.get("torch"), "distributed", None)
        in_a_group = dist is not None and dist.is_available() and dist.is_initialized()
        if not in_a_group and subcommand not in _END_AT_ONCE:
            return
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    atexit.register(end_at_once)
    try:
        code = main(argv)
    except SystemExit as stop:  # argparse: --help, or wrong flags
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        raise
    sys.exit(code)


if __name__ == "__main__":
    program()
