"""Signals before training has its own handlers, and to multiprocessing's resource tracker."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llava_mocle.cli.main import main
from llava_mocle.training.processes.early_signals import SIGNALS
from tests.training.ranks import ROOT

# The imports that take long are replaced by one that a signal comes in, and that lets no exception through.
IMPORTING = """
import os, signal, sys, types
number = getattr(signal, sys.argv.pop(1))
signal.signal(number, getattr(signal, sys.argv.pop(1)))

class Recipe(types.ModuleType):
    def __getattr__(self, name):
        try:
            signal.raise_signal(number)
        except BaseException:
            pass
        os._exit(3)

sys.modules["llava_mocle.recipe.recipe"] = Recipe("llava_mocle.recipe.recipe")
from llava_mocle.cli.main import program
program()
"""
TRACKER = """
import os, signal
from multiprocessing import Semaphore, resource_tracker
from llava_mocle.training.processes.early_signals import SIGNALS, protect_tracker
protect_tracker()
assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
kept = Semaphore()
for number in SIGNALS:
    os.kill(resource_tracker._resource_tracker._pid, number)
del kept
os.close(resource_tracker._resource_tracker._fd)  # by which it is told to end
status = os.waitpid(resource_tracker._resource_tracker._pid, 0)[1]
os._exit(0 if status == 0 else 1)
"""


def run(program: str, *words: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program, *words], env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_imports_is_a_preemption(tmp_path: Path, number: signal.Signals) -> None:
    exit_file = tmp_path / "exit"
    usual = "default_int_handler" if number == signal.SIGINT else "SIG_DFL"
    done = run(IMPORTING, number.name, usual, "train", "my.yaml", LLAVA_MOCLE_EXIT_FILE=str(exit_file))
    assert done.returncode == 75, done.stderr
    came = "interrupted by Ctrl-C" if number == signal.SIGINT else f"preempted: {number.name} came"
    assert done.stderr == f"{came} before training: nothing was lost\n"
    assert exit_file.read_text() == "75\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_a_launcher_ignores_stays_ignored(number: signal.Signals) -> None:
    assert run(IMPORTING, number.name, "SIG_IGN", "train", "my.yaml").returncode == 3


def test_the_sigterm_of_a_script_that_got_ctrl_c(tmp_path: Path) -> None:
    exit_file = tmp_path / "exit"
    exit_file.write_text("Ctrl-C\n")
    done = run(IMPORTING, "SIGTERM", "SIG_DFL", "train", "my.yaml", LLAVA_MOCLE_EXIT_FILE=str(exit_file))
    assert (done.returncode, exit_file.read_text()) == (75, "75\n")
    assert done.stderr == "interrupted by Ctrl-C before training: nothing was lost\n"


def test_other_commands_have_no_handlers() -> None:
    assert run(IMPORTING, "SIGTERM", "SIG_DFL", "train", "my.yaml", "--dry-run").returncode == -signal.SIGTERM


def test_the_handlers_go_with_the_command(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    assert main(["train", str(tmp_path / "no.yaml")]) == 2
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_resource_tracker_outlives_signals() -> None:
    done = run(TRACKER)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
