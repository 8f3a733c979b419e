"""What a run's processes have inside `started`, and what is left of them after it."""

import multiprocessing
import signal
from pathlib import Path

import pytest

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.processes.output_dir import claimed
from llava_mocle.training.processes.start import started


def claim(folder: Path) -> None:
    with claimed(folder):
        pass


def test_the_output_folder_is_this_runs_alone(recipe_file, tmp_path: Path) -> None:
    with started(load_recipe(recipe_file(seed=5))) as args:
        assert (args.seed, args.output_dir) == (5, str(tmp_path / "run"))
        with pytest.raises(ConfigError, match="another run is writing there"):
            claim(tmp_path / "run")
    claim(tmp_path / "run")


def test_without_an_output_folder_nothing_starts(recipe_file) -> None:
    with pytest.raises(ConfigError, match="output_dir is not set"), started(load_recipe(recipe_file(output_dir=None))):
        pytest.fail("it started")


def test_a_failed_run_leaves_no_workers(recipe_file) -> None:
    worker = multiprocessing.get_context("fork").Process(target=signal.pause)

    def fail() -> None:
        with started(load_recipe(recipe_file())):
            worker.start()
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert worker.exitcode == -signal.SIGKILL
