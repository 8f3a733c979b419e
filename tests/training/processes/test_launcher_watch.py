"""What becomes of ranks whose launcher is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llava_mocle.training.processes import launcher_watch
from tests.processes import children, ended, kill_tree, wait_until_gone
from tests.training.ranks import ROOT


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set by SIGTERM."""
    monkeypatch.setattr(launcher_watch, "_INTERVAL_S", 0.01)
    heard = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.set())
    yield heard
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("started_by_torchrun", "dies"), [(True, True), (True, False), (False, True)])
def test_only_the_death_of_torchrun_is_a_signal(monkeypatch, told, started_by_torchrun: bool, dies: bool) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if started_by_torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    parent, asked = os.getppid(), threading.Semaphore(0)
    before = threading.enumerate()
    with launcher_watch.ending_with_launcher():

        def getppid() -> int:
            asked.release()
            return parent + dies

        monkeypatch.setattr(os, "getppid", getppid)
        if not started_by_torchrun:
            assert set(threading.enumerate()) <= set(before)  # nobody watches
        elif dies:
            assert told.wait(60)
        else:
            assert all(asked.acquire(timeout=60) for _ in range(3))  # by the third time, two answers have been judged
    assert told.is_set() == (started_by_torchrun and dies)


@pytest.mark.slow
def test_ranks_of_a_killed_torchrun_save_and_end(recipe_file, tmp_path: Path) -> None:
    folder, log = tmp_path / "out", tmp_path / "log"
    recipe = recipe_file(max_steps=100_000, save_strategy="no")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    train = ["-m", "llava_mocle.cli.main", "train", str(recipe), "--output_dir", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with log.open("w") as file:
        launcher = subprocess.Popen([sys.executable, *torchrun, *train], env=environment, stdout=file, stderr=file)
    ranks: list[int] = []
    try:
        with ended(launcher):
            until = time.monotonic() + 300
            while "step     4  loss" not in log.read_text():
                assert launcher.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < until, log.read_text()[-3000:]
                time.sleep(0.05)
            ranks = children(launcher.pid)
            assert len(ranks) >= 2
            launcher.kill()
            launcher.wait()
        assert wait_until_gone(ranks, 60) == [], log.read_text()[-3000:]
    finally:
        for pid in ranks:
            kill_tree(pid)
    assert "torchrun has ended without this process" in log.read_text()
    assert len(list(folder.glob("checkpoint-*"))) == 1
