"""Ctrl-C on `llava-mocle train` itself, as a terminal sends it: to every process of the command."""

import os
import signal
from pathlib import Path

import pytest

from tests.processes import children, is_alive, wait_until_gone
from tests.training.ranks import Ranks, history, run, start
from tests.training.test_restart import HELD, wait_for

# A run that waits while it loads the model.
LOADING = """
import sys, time
from pathlib import Path
from llava_mocle.cli import main
from llava_mocle.training import run

def load_start(*args):
    Path(sys.argv[-1], "held-0").touch()
    time.sleep(600)

run.load_start = load_start
main.program()
"""


@pytest.fixture
def recipe(recipe_file) -> Path:
    return recipe_file(max_steps=8, save_strategy="steps", save_steps=20, lora_dropout=0.1)


def held(folder: Path, ranks: Ranks) -> None:
    wait_for(lambda: all((folder / f"held-{rank}").exists() for rank in range(len(ranks.processes))), ranks)


def press(ranks: Ranks) -> list[int]:
    """Ctrl-C; returns the processes that got it besides the ranks."""
    helpers = [pid for process in ranks.processes for pid in children(process.pid)]
    for pid in [*(process.pid for process in ranks.processes), *helpers]:
        os.kill(pid, signal.SIGINT)
    return helpers


def begin(recipe: Path, tmp_path: Path, count: int = 1) -> tuple[Path, list[str], Ranks]:
    """A run that is held after its step 4."""
    folder = tmp_path / "out"
    words = ["--output_dir", str(folder), "--dataloader_num_workers", "1"]
    ranks = start(tmp_path / "first", recipe, *words, count=count, program=["-c", HELD.replace("STEP", "4")])
    held(folder, ranks)
    return folder, words, ranks


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_it_saves_and_the_same_command_goes_on(recipe: Path, tmp_path: Path, count: int) -> None:
    folder, words, ranks = begin(recipe, tmp_path, count)
    press(ranks)
    for rank in range(count):
        noted = "Ctrl-C: saving as soon as this step is done"
        wait_for(lambda rank=rank, noted=noted: noted in ranks.output(rank), ranks)
    (folder / "go").touch()
    assert ranks.wait() == [75] * count, ranks.output()[-3000:]
    for rank in range(count):
        said = ranks.output(rank)
        done = f"interrupted by Ctrl-C: {folder / 'checkpoint-4'} was written after step 4; the same command goes on"
        assert done in said
        assert "SIGTERM" not in said
        assert "preempted" not in said
        assert "Traceback" not in said
    run(tmp_path / "second", recipe, *words, count=count)
    run(tmp_path / "third", recipe, "--output_dir", str(tmp_path / "unbroken"), count=count)
    assert history(folder) == history(tmp_path / "unbroken")


@pytest.mark.slow
def test_a_second_one_stops_at_once(recipe: Path, tmp_path: Path) -> None:
    folder, _, ranks = begin(recipe, tmp_path)
    press(ranks)
    wait_for(lambda: "once more Ctrl-C stops at once" in ranks.output(), ranks)
    helpers = press(ranks)
    assert ranks.wait() == [130]
    assert ranks.output().rstrip().endswith("the same command goes on from the newest checkpoint, if there is one")
    assert "Traceback" not in ranks.output()
    assert not list(folder.glob("checkpoint-*"))
    assert not wait_until_gone(helpers)
    assert not any(map(is_alive, helpers))


@pytest.mark.slow
def test_before_the_first_step_nothing_is_waited_for(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    ranks = start(tmp_path / "first", recipe, "--output_dir", str(folder), program=["-c", LOADING])
    held(folder, ranks)
    press(ranks)
    assert ranks.wait() == [75]
    said = ranks.output()
    assert "interrupted by Ctrl-C before the first step: nothing was lost, and the same command goes on\n" in said
    assert "Traceback" not in said
