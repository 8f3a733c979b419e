"""Signals to the scripts, at any time: they reach training once, leave nobody behind and end in 75."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.processes import descendants, ended, is_alive, wait_until_gone
from tests.scripts.stubs import Stubs

# In place of the recorder, which has a shell between the signal and the command: the command itself.
PYTHON = """#!/usr/bin/env python3
import os, signal, subprocess, sys, time
if "--resolve" in sys.argv:
    sys.exit(0)
def up():
    with open("up.aside", "w") as out:
        out.write(str(os.getpid()))
    os.rename("up.aside", "up")
"""
# What a script is in the middle of when the signal comes: starting training, before or after its process is there.
SIGNALLED_AT_THE_START = """
set() {{
    if [ "$1" = {option} ] && [ -z "${{before_training:-}}" ]; then kill -{number} $$; fi
    builtin set "$@"
}}
"""


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    return Stubs(tmp_path)


def listen_to_ctrl_c() -> None:
    """Tests that run in the background inherit an ignored SIGINT, which a shell cannot trap."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(stubs: Stubs, script: str, python: str, **variables: str) -> subprocess.Popen:
    (stubs.folder / "python").write_text(PYTHON + python)
    return subprocess.Popen(
        stubs.command(script), env=stubs.environment | variables, cwd=stubs.folder.parent, stderr=subprocess.PIPE,
        text=True, preexec_fn=listen_to_ctrl_c,
    )  # fmt: skip


def wait_for_file(path: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def wait_for_command(process: subprocess.Popen, folder: Path) -> int:
    """The process id of the command, once it is up."""
    wait_for_file(folder / "up", process)
    return int((folder / "up").read_text())


def wait_until_handled(process: subprocess.Popen) -> None:
    """Until no signal waits for a script, and it is asleep again."""
    end = time.monotonic() + 60
    while True:
        fields = dict(line.split(":\t") for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        if fields["State"].startswith("S") and int(fields["ShdPnd"], 16) == 0:
            return
        assert time.monotonic() < end
        time.sleep(0.01)


def said(process: subprocess.Popen) -> str:
    assert process.stderr is not None
    return process.stderr.read()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_before_training_leaves_nobody_behind(stubs: Stubs, tmp_path: Path, sent: signal.Signals) -> None:
    process = start(stubs, "finetune_mocle.sh", 'if "cluster" in sys.argv:\n    up()\n    time.sleep(60)\n')
    with ended(process):
        command = wait_for_command(process, tmp_path)
        process.send_signal(sent)
        assert process.wait(30) == 75
        assert not is_alive(command)
        text = said(process)
    assert text.count("the same command starts again") == 1
    assert "saving a checkpoint" not in text


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_become_one_sigterm_and_the_script_waits(stubs: Stubs, tmp_path: Path, sent: signal.Signals) -> None:
    training = """
def leave(number, frame):
    exit_file = os.environ["LLAVA_MOCLE_EXIT_FILE"]
    open("note", "w").write(open(exit_file).read() if os.path.exists(exit_file) else "")
    open("got", "a").write(signal.Signals(number).name + " ")
    while not os.path.exists("saved"):
        time.sleep(0.05)
    open(os.environ["LLAVA_MOCLE_EXIT_FILE"], "w").write("75\\n")
    sys.exit(1)
signal.signal(signal.SIGTERM, leave)
up()
time.sleep(60)
"""
    process = start(stubs, "pretrain.sh", training)
    with ended(process):
        wait_for_command(process, tmp_path)
        process.send_signal(sent)
        wait_for_file(tmp_path / "got", process)
        if sent != signal.SIGINT:
            process.send_signal(sent)  # a second one must not cut the checkpoint short
            wait_until_handled(process)
        (tmp_path / "saved").touch()
        assert process.wait(60) == 75
        assert "preempted: nothing is lost" in said(process)
    assert (tmp_path / "got").read_text() == "SIGTERM "
    assert (tmp_path / "note").read_text() == ("Ctrl-C\n" if sent == signal.SIGINT else "")


@pytest.mark.parametrize("option", ["-m", "+m"])
@pytest.mark.parametrize("number", ["TERM", "USR1", "INT"])
def test_a_signal_while_training_is_being_started(stubs: Stubs, tmp_path: Path, option: str, number: str) -> None:
    (tmp_path / "no_environment.sh").write_text(SIGNALLED_AT_THE_START.format(option=option, number=number))
    process = start(stubs, "pretrain.sh", 'if "train" in sys.argv:\n    time.sleep(600)\n')
    with ended(process):
        _, text = process.communicate(timeout=60)  # ends when nobody is left who could write to it
        assert process.returncode == 75
        assert "the same command starts again" in text


def test_a_signal_that_kills_a_process_without_handlers(stubs: Stubs, tmp_path: Path) -> None:
    process = start(stubs, "pretrain.sh", "up()\ntime.sleep(60)\n")
    with ended(process):
        wait_for_command(process, tmp_path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75
        text = said(process)
    assert "the same command starts again" in text
    assert "preempted" not in text


@pytest.mark.parametrize("children", [0, 1])
def test_a_signal_before_a_launcher_has_started_its_ranks(stubs: Stubs, tmp_path: Path, children: int) -> None:
    """The launcher itself is not told (it would pass nothing on), and then nobody would be."""
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=1\nb slots=1\n")
    launcher = f'subprocess.Popen(["sleep", "60"]) if {children} else None\nup()\ntime.sleep(60)\n'
    variables = {"HOSTFILE": str(hosts), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    process = start(stubs, "pretrain.sh", launcher, **variables)
    with ended(process):
        command = wait_for_command(process, tmp_path)
        tree = [command, *descendants(command)]
        assert len(tree) == 1 + children
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75
        assert wait_until_gone(tree) == []
        assert "the same command starts again" in said(process)


def test_the_ranks_of_a_launcher_that_passes_nothing_on_are_told(stubs: Stubs, tmp_path: Path) -> None:
    """They are told, whatever else the launcher has started."""
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=1\nb slots=1\n")
    rank = "import os, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); "
    rank += "open('up', 'w').close(); time.sleep(60)"
    launcher = f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "launch" not in sys.argv:
    subprocess.Popen(["sleep", "5"])
    sys.exit(subprocess.run([sys.executable, __file__, "launch"]).returncode)
sys.exit(subprocess.run([sys.executable, "-c", {rank!r}]).returncode)
"""
    variables = {"HOSTFILE": str(hosts), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    process = start(stubs, "pretrain.sh", launcher, **variables)
    with ended(process):
        wait_for_file(tmp_path / "up", process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75
        assert "preempted" in said(process)
