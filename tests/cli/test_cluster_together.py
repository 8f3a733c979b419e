"""Two `cluster` commands for one folder at once: processes that wait for each other's events."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_cluster import write_rows
from tests.clustering.encoders import make_tiny_encoder, question_texts

PATIENCE_S = 120
# The command, which stops in the middle of its work until the file `go` is there.
SLOW = """
import sys, time
from pathlib import Path
from llava_mocle.clustering.cluster_model import ClusterModel
folder, fit = Path(sys.argv.pop(1)), ClusterModel.fit
def slow(*args, **options):
    (folder / "at_work").touch()
    while not (folder / "go").exists():
        time.sleep(0.05)
    return fit(*args, **options)
ClusterModel.fit = slow
from llava_mocle.cli.main import program
program()
"""


@pytest.fixture
def start(tmp_path: Path):
    """Start a command, its output in a file; what is still running at the end is killed."""
    started = []

    def start(name: str, *words: object, slow: bool = False) -> tuple[subprocess.Popen, Path]:
        output = tmp_path / f"{name}.log"
        program = ["-c", SLOW, str(tmp_path)] if slow else ["-m", "llava_mocle.cli.main"]
        with output.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, *program, "cluster", *map(str, words)], stdout=stream, stderr=subprocess.STDOUT,
                env=os.environ | {"LLAVA_MOCLE_CACHE": str(tmp_path / "cache")},
            )  # fmt: skip
        started.append(process)
        return process, output

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_until(condition) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


@pytest.mark.slow
def test_the_second_waits_and_takes_what_the_first_has_made(start, tmp_path: Path) -> None:
    encoder = make_tiny_encoder(tmp_path / "tiny")
    rows = write_rows(tmp_path / "shapes.json", question_texts(24))
    words = ("--rows", rows, "--encoder", encoder, "--output", tmp_path / "k3", "--num-clusters")
    first, first_log = start("first", *words, 3, slow=True)
    wait_until((tmp_path / "at_work").exists)
    second, second_log = start("second", *words, 3)
    third, third_log = start("third", *words, 4)
    for log in (second_log, third_log):
        wait_until(lambda log=log: "waiting for it" in log.read_text())
        assert f"another `llava-mocle cluster` (host {os.uname().nodename}, pid {first.pid})" in log.read_text()
    assert second.poll() is None
    (tmp_path / "go").touch()
    codes = [process.wait(PATIENCE_S) for process in (first, second, third)]
    assert codes == [0, 0, 2], first_log.read_text() + second_log.read_text() + third_log.read_text()
    assert f"wrote {tmp_path / 'k3'} in" in first_log.read_text()
    assert "already holds this clustering of these rows: reused" in second_log.read_text()
    error = third_log.read_text().splitlines()[-1]
    assert f"{tmp_path / 'k3'}: already holds another cluster model (K = 3, seed 0, 10 restarts, " in error
    assert "This command asks for K = 4, seed 0, 10 restarts, turns first, 24 instructions (24 distinct)" in error


@pytest.mark.slow
def test_a_killed_command_leaves_nothing_to_wait_for(start, tmp_path: Path) -> None:
    encoder = make_tiny_encoder(tmp_path / "tiny")
    rows = write_rows(tmp_path / "shapes.json", question_texts(24))
    words = ("--rows", rows, "--encoder", encoder, "--output", tmp_path / "k3", "--num-clusters", 3)
    first, _ = start("first", *words, slow=True)
    wait_until((tmp_path / "at_work").exists)
    first.kill()
    first.wait()
    second, log = start("second", *words)
    assert second.wait(PATIENCE_S) == 0
    assert "waiting" not in log.read_text()
