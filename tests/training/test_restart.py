"""Runs that are cut off: told to go, killed, out of disk, with a broken checkpoint; and what comes after."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.processes import children, descendants, wait_until_gone
from tests.training.ranks import TIMEOUT_S, ZERO, Ranks, history, run, start

STEPS = 60
RESUMED = "resuming from"
# A run that does not end the checkpoint after 12 steps: it lacks its manifest.
STUCK = """
import time
from llava_mocle.cli import main
from llava_mocle.training.checkpoints import writer
write_manifest = writer.write_manifest

def stuck(folder, **facts):
    if folder.name == "checkpoint-12":
        (folder.parent / "stuck").touch()
        time.sleep(600)
    write_manifest(folder, **facts)

writer.write_manifest = stuck
main.program()
"""

# A run that waits after a step, until the file `go` is beside what it writes.
HELD = """
import sys, time
from pathlib import Path
from llava_mocle.cli import main
from llava_mocle.training.loop.preemption import Preemption
on_step_end = Preemption.on_step_end

def held(self, args, state, control, **kwargs):
    folder = Path(args.output_dir)
    if state.global_step == STEP:
        (folder / f"held-{args.process_index}").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
    return on_step_end(self, args, state, control, **kwargs)

Preemption.on_step_end = held
main.program()
"""


@pytest.fixture
def recipe(recipe_file) -> Path:
    """Gate noise and dropout on: the random state matters too."""
    return recipe_file(max_steps=STEPS, save_strategy="steps", save_steps=6, save_total_limit=3, lora_dropout=0.1)


def wait_for(condition, ranks: Ranks, seconds: float = TIMEOUT_S) -> None:
    until = time.time() + seconds
    while not condition():
        assert time.time() < until, ranks.output()[-3000:]
        assert all(process.poll() is None for process in ranks.processes), ranks.output()[-3000:]
        time.sleep(0.005)


def has_reached(ranks: Ranks, step: int):
    return lambda: f"step {step:>5}  loss" in ranks.output()


def has_checkpoint(folder: Path) -> bool:
    return any(folder.glob("checkpoint-*"))


def deepspeed(zero: int | None) -> list[str]:
    return ["--deepspeed", ZERO[zero]] if zero else []


def finished(folder: Path) -> bool:
    return json.loads((folder / "trainer_state.json").read_text())["global_step"] == STEPS


def same_as_unbroken(recipe: Path, folder: Path, *words: str, count: int) -> None:
    unbroken = folder.with_name("unbroken")
    run(folder.with_name("unbroken_logs"), recipe, "--output_dir", str(unbroken), *words, count=count)
    assert finished(folder)
    assert history(folder) == history(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize(
    # 10 steps an epoch: the last case is cut off in the second.
    ("zero", "number", "step"),
    [(2, signal.SIGUSR1, 4), (3, signal.SIGTERM, 4), (None, signal.SIGTERM, 12)],
)
def test_a_signal_to_one_rank_saves_on_all(
    recipe: Path, tmp_path: Path, zero, number: signal.Signals, step: int
) -> None:
    folder, exit_file = tmp_path / "out", tmp_path / "exit"
    words = ["--output_dir", str(folder), "--dataloader_num_workers", "1", *deepspeed(zero)]
    environment = {"LLAVA_MOCLE_EXIT_FILE": str(exit_file)}
    program = ["-c", HELD.replace("STEP", str(step))]
    ranks = start(tmp_path / "first", recipe, *words, count=2, environment=environment, program=program)
    wait_for(lambda: all((folder / f"held-{rank}").exists() for rank in (0, 1)), ranks)
    # As a scheduler does: to every process of one rank, its loader worker and resource tracker included.
    for process in (ranks.processes[1].pid, *children(ranks.processes[1].pid)):
        os.kill(process, number)
    noted = f"{number.name}: saving as soon as this step is done"
    wait_for(lambda: noted in ranks.output(1), ranks)
    (folder / "go").touch()
    assert ranks.wait() == [75, 75], ranks.output()[-3000:]
    assert "preempted: " in ranks.output()
    assert (folder / f"checkpoint-{step}").is_dir()
    assert "Traceback" not in ranks.output(1)
    assert exit_file.read_text().strip() == "75"
    assert not (folder / "trainer_state.json").exists()  # which only a finished run has
    again = run(tmp_path / "second", recipe, *words, count=2)
    assert RESUMED in again.output()
    same_as_unbroken(recipe, folder, *words[2:], count=2)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_others_by_name(recipe: Path, tmp_path: Path, victim: int) -> None:
    folder = tmp_path / "out"
    words = ["--output_dir", str(folder), "--dataloader_num_workers", "1", *deepspeed(2)]
    ranks = start(tmp_path / "first", recipe, *words, "--max_steps", "4000", count=2)
    wait_for(lambda: has_checkpoint(folder) and has_reached(ranks, 8)(), ranks)
    workers = descendants(ranks.processes[victim].pid)
    assert workers
    ranks.processes[victim].kill()
    began = time.time()
    code = ranks.processes[1 - victim].wait(60)
    print(f"the other rank ended after {time.time() - began:.1f} s")
    assert code == 1
    assert f"rank {victim} (" in ranks.output(1 - victim)
    assert "died without a word" in ranks.output(1 - victim)
    assert wait_until_gone(workers) == []


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    words = ["--output_dir", str(folder)]
    ranks = start(tmp_path / "first", recipe, *words, program=["-c", STUCK])
    half = folder / ".incomplete" / "checkpoint-12"
    wait_for(half.with_name("stuck").exists, ranks)
    ranks.processes[0].kill()
    ranks.wait()
    assert half.is_dir()
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-6"]
    again = run(tmp_path / "second", recipe, *words)
    assert "checkpoint-6" in again.output().partition(RESUMED)[2].splitlines()[0]
    assert not half.exists()
    same_as_unbroken(recipe, folder, count=1)


@pytest.mark.slow
def test_a_corrupt_newest_checkpoint_is_passed_over(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    words = ["--output_dir", str(folder)]
    run(tmp_path / "first", recipe, *words, "--stop_after_steps", "18")
    weights = folder / "checkpoint-18" / "adapter_model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-5] ^= 1
    weights.write_bytes(damaged)
    (folder / "checkpoint-12" / "optimizer.pt").write_bytes(b"cut off")
    again = run(tmp_path / "second", recipe, *words)
    said = again.output()
    assert "checkpoint-18 is not whole (adapter_model.safetensors is not what was written" in said
    assert "checkpoint-12 is not whole (optimizer.pt has 7 bytes" in said
    assert "checkpoint-6" in said.partition(RESUMED)[2].splitlines()[0]
    same_as_unbroken(recipe, folder, count=1)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 1.6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1600k", "tmpfs", str(folder)], check=False)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_costs_no_checkpoint(recipe: Path, tmp_path: Path, small_disk: Path) -> None:
    folder = small_disk / "out"
    words = ["--output_dir", str(folder), "--save_total_limit", "20", "--save_steps", "2"]
    ranks = start(tmp_path / "first", recipe, *words)
    assert ranks.wait() == [2], ranks.output()[-3000:]
    said = ranks.output()
    whole = sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    assert whole
    assert f"checkpoint-{whole[-1] + 2} could not be written" in said
    assert f"checkpoint-{whole[-1]} is whole" in said
    assert not (folder / ".incomplete").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = run(tmp_path / "second", recipe, *words)
    assert f"checkpoint-{whole[-1]}\n" in again.output()
    kept = shutil.copytree(folder, tmp_path / "out")
    same_as_unbroken(recipe, kept, count=1)


@pytest.mark.slow
def test_an_image_deleted_mid_run_is_named_on_every_rank(recipe: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(recipe.read_text())
    images = shutil.copytree(values["datasets"][0]["image_folder"], tmp_path / "images")
    values["datasets"][0]["image_folder"] = str(images)
    recipe.write_text(yaml.safe_dump(values))
    folder = tmp_path / "out"
    words = ["--output_dir", str(folder), "--dataloader_num_workers", "1"]
    ranks = start(tmp_path / "first", recipe, *words, "--max_steps", "4000", count=2)
    wait_for(lambda: has_checkpoint(folder), ranks)
    hidden = images.rename(tmp_path / "hidden")
    codes = ranks.wait()
    assert all(code not in (0, 75) for code in codes)
    said = ranks.output(0) + ranks.output(1)
    assert "no such image" in said
    assert "row " in said.partition("no such image")[0].splitlines()[-1]
    assert "Traceback" not in said.partition("error: ")[2].partition("no such image")[0]
    hidden.rename(images)
    newest = max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    more = ["--max_steps", "4000", "--stop_after_steps", str(newest + 2)]
    assert f"checkpoint-{newest}\n" in run(tmp_path / "second", recipe, *words, *more, count=2).output()
