"""Runs are carried out once, by one process at most, and go on after any kill; real processes of a stand-in command."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llava_mocle.errors import ConfigError
from llava_mocle.experiment.experiment import Experiment
from llava_mocle.experiment.folder import State
from tests.experiment.experiments import calls, fake_executor, open_experiment, say_right, write_design
from tests.processes import ended, kill_tree

# The order of the grid: one seed, two domains.
RUNS = ["single_domain/seed0-pictures", "single_domain/seed0-sums", "lora_activated/seed0", "mocle/seed0"]
TRAIN_AND_EVAL = (("train", ""), ("eval", "-validation"))
ALL_CALLS = [
    *(f"{step}-{run.replace('/', '-')}{end}" for run in RUNS[:3] for step, end in TRAIN_AND_EVAL),
    "cluster-k2",
    "train-mocle-seed0",
    "eval-mocle-seed0-validation",
]


def wait_for(condition, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture
def design(tmp_path: Path, mix) -> Path:
    return write_design(tmp_path, mix)


def test_every_step_once_and_nothing_again(tmp_path: Path, design: Path) -> None:
    experiment = open_experiment(design)
    experiment.carry_out(fake_executor(tmp_path), "best")
    assert calls(tmp_path) == ALL_CALLS
    open_experiment(design).carry_out(fake_executor(tmp_path), "best")
    assert calls(tmp_path) == ALL_CALLS
    folder = tmp_path / "experiment" / "runs" / "mocle" / "seed0"
    assert {"recipe.yaml", "run.json", "log.txt", "train", "eval", "done.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert not (folder / "train" / "checkpoint-2").exists()  # nothing goes on from it any more


def test_two_at_a_time_do_the_same(tmp_path: Path, design: Path) -> None:
    open_experiment(design).carry_out(fake_executor(tmp_path, jobs=2), "best")
    assert sorted(calls(tmp_path)) == sorted(ALL_CALLS)


def test_a_failing_run_does_not_stop_the_others(tmp_path: Path, design: Path) -> None:
    (tmp_path / "fail-train-lora_activated-seed0").touch()
    executor = fake_executor(tmp_path)
    experiment = open_experiment(design)
    experiment.carry_out(executor, "best")
    (failure,) = executor.failures
    assert (failure.run, failure.step, failure.code) == ("lora_activated/seed0", "train", 2)
    assert "it was told to fail" in failure.log.read_text()
    assert experiment.result()["missing"] == ["lora_activated/seed0"]
    assert "eval-mocle-seed0-validation" in calls(tmp_path)
    (tmp_path / "fail-train-lora_activated-seed0").unlink()
    before = len(calls(tmp_path))
    open_experiment(design).carry_out(fake_executor(tmp_path), "best")
    again = ["train-lora_activated-seed0", "eval-lora_activated-seed0-validation"]
    assert calls(tmp_path)[before:] == again


def test_a_stop_ends_what_runs_and_starts_nothing(tmp_path: Path, design: Path) -> None:
    os.mkfifo(tmp_path / "hold-train-single_domain-seed0-sums")
    executor = fake_executor(tmp_path)
    worker = threading.Thread(target=open_experiment(design).carry_out, args=(executor, "best"))
    worker.start()
    wait_for((tmp_path / "held-train-single_domain-seed0-sums").exists)
    executor.processes.stop(signal.SIGTERM)
    worker.join(60)
    assert not worker.is_alive()
    assert executor.failures == []
    assert calls(tmp_path)[-1] == "train-single_domain-seed0-sums"


DRIVER = """
import sys
from pathlib import Path
from tests.experiment.experiments import fake_executor, open_experiment
open_experiment(Path(sys.argv[1])).carry_out(fake_executor(Path(sys.argv[2])), "best")
"""


def killed(tmp_path: Path, design: Path, held: str, kill) -> None:
    """Start the grid in a process of its own, and kill it while the stand-in waits in a step."""
    os.mkfifo(tmp_path / f"hold-{held}")
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(design), str(tmp_path)])
    with ended(process):
        wait_for(lambda: process.poll() is not None or (tmp_path / f"held-{held}").exists())
        kill(process.pid)
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["train-lora_activated-seed0", "eval-lora_activated-seed0-validation"])
def test_a_kill_loses_at_most_the_step_in_progress(tmp_path: Path, design: Path, step: str) -> None:
    killed(tmp_path, design, step, kill_tree)
    (tmp_path / f"hold-{step}").unlink()
    assert not (tmp_path / "experiment/runs/lora_activated/seed0/done.json").exists()
    open_experiment(design).carry_out(fake_executor(tmp_path), "best")
    assert sorted(calls(tmp_path)) == sorted([*ALL_CALLS, step])  # once more, and nothing else


@pytest.mark.slow
def test_what_outlives_its_grid_is_waited_for(tmp_path: Path, design: Path) -> None:
    """The grid alone is killed. The training goes on, and a second start must not train into the same folder."""
    step = "train-lora_activated-seed0"
    killed(tmp_path, design, step, lambda pid: os.kill(pid, signal.SIGKILL))
    orphan = int((tmp_path / f"held-{step}").read_text())
    try:
        worker = threading.Thread(target=open_experiment(design).carry_out, args=(fake_executor(tmp_path), "best"))
        worker.start()
        wait_for(lambda: "eval-mocle-seed0-validation" in calls(tmp_path))  # the others are done meanwhile
        assert worker.is_alive()
        assert "eval-lora_activated-seed0-validation" not in calls(tmp_path)
        (tmp_path / f"hold-{step}").write_text("go on")
        worker.join(60)
        assert not worker.is_alive()
    finally:
        kill_tree(orphan)
    assert sorted(calls(tmp_path)) == sorted(ALL_CALLS)


def test_two_processes_share_a_grid(tmp_path: Path, design: Path) -> None:
    """The second one leaves out what the first is at, and waits for it."""
    os.mkfifo(tmp_path / "hold-train-single_domain-seed0-pictures")
    workers = []
    for _ in range(2):
        workers.append(
            threading.Thread(target=open_experiment(design).carry_out, args=(fake_executor(tmp_path), "best"))
        )
        workers[-1].start()
        wait_for((tmp_path / "held-train-single_domain-seed0-pictures").exists)
    wait_for(lambda: "eval-mocle-seed0-validation" in calls(tmp_path))
    assert all(worker.is_alive() for worker in workers)
    (tmp_path / "hold-train-single_domain-seed0-pictures").write_text("go on")
    for worker in workers:
        worker.join(60)
    assert sorted(calls(tmp_path)) == sorted(ALL_CALLS)


def test_changed_runs_are_named_and_kept(tmp_path: Path, mix, design: Path) -> None:
    open_experiment(design).carry_out(fake_executor(tmp_path), "all")
    write_design(tmp_path, mix, recipe={"num_experts": 4})  # a plain LoRA has no experts
    experiment = open_experiment(design)
    with pytest.raises(ConfigError, match=r"runs \(1\) were made of something else.*num_experts.*--overwrite"):
        experiment.refuse_changed(experiment.report_runs({}))
    done = len(calls(tmp_path))
    with pytest.raises(ConfigError, match=r"runs \(1\) were"):
        experiment.carry_out(fake_executor(tmp_path), "all")
    assert len(calls(tmp_path)) == done
    experiment.carry_out(fake_executor(tmp_path, overwrite=True), "all")
    assert len(calls(tmp_path)) - done == 2  # the clusters are of the same rows


def test_what_decides_nothing_changes_nothing(tmp_path: Path, mix, design: Path) -> None:
    open_experiment(design).carry_out(fake_executor(tmp_path), "all")
    write_design(tmp_path, mix, recipe={"logging_steps": 3, "gate_mode": "paper"})
    states = {folder.state() for folder in open_experiment(design).report_runs({}).values()}
    assert states == {State.DONE}
    write_design(tmp_path, mix, recipe={"gate_mode": "released"})
    changed = [folder.differences() for folder in open_experiment(design).report_runs({}).values()]
    assert changed == [[], [], [], ["gate_mode: 'paper' then, 'released' now"]]  # a plain LoRA has no gates


def test_added_seeds_and_splits_do_only_what_is_new(tmp_path: Path, mix, design: Path) -> None:
    open_experiment(design).carry_out(fake_executor(tmp_path), "all")
    done = len(calls(tmp_path))
    test = {spec["name"]: spec["eval_data_path"] for spec in mix}
    write_design(tmp_path, mix, methods=["mocle"], seeds=2, test=test)
    open_experiment(design).carry_out(fake_executor(tmp_path), "all")
    expected = ["eval-mocle-seed0-test", "train-mocle-seed1", "eval-mocle-seed1-validation", "eval-mocle-seed1-test"]
    assert calls(tmp_path)[done:] == expected


def test_weights(tmp_path: Path, mix) -> None:
    design = write_design(tmp_path, mix, methods=["mocle"], seeds=3, ablations={"K": {"num_clusters": [3]}})
    say_right(tmp_path, {"mocle/seed1-validation-sums": "1 1 1 1 1"})
    experiment = open_experiment(design)
    experiment.carry_out(fake_executor(tmp_path), "best")
    kept = [folder.run.name for folder in experiment.report_runs({}).values() if folder.has_weights()]
    assert kept == ["mocle/seed1"]
    # Questions that are added later cannot be asked of the others.
    test = {spec["name"]: spec["eval_data_path"] for spec in mix}
    write_design(tmp_path, mix, methods=["mocle"], seeds=3, test=test)
    experiment = open_experiment(design)
    states = [folder.state() for folder in experiment.report_runs({}).values()]
    assert states == [State.WITHOUT_WEIGHTS, State.UNASKED, State.WITHOUT_WEIGHTS]
    with pytest.raises(
        ConfigError, match=r"runs \(2\) were asked other questions than now, and their weights were removed"
    ):
        experiment.refuse_changed(experiment.report_runs({}))


def test_an_ablation_alone_takes_the_rate_of_its_method(tmp_path: Path, mix) -> None:
    ablations = {"K": {"num_clusters": [3]}}
    design = write_design(tmp_path, mix, learning_rates=[0.1, 0.2], ablations=ablations, ablation_seeds=1)
    say_right(tmp_path, {"mocle/seed0-lr0.2-validation-sums": "1 1 1 1 1"})
    Experiment(open_experiment(design).grid, ["K=3"]).carry_out(fake_executor(tmp_path), "best")
    assert [call for call in calls(tmp_path) if call.startswith("train")] == [
        "train-mocle-seed0-lr0.1", "train-mocle-seed0-lr0.2", "train-K=3-seed0",
    ]  # fmt: skip
    assert "learning_rate: 0.2" in (tmp_path / "experiment/runs/K=3/seed0/recipe.yaml").read_text()


def test_the_search_comes_first_and_its_winner_is_not_trained_again(tmp_path: Path, mix) -> None:
    test = {spec["name"]: spec["eval_data_path"] for spec in mix}
    design = write_design(tmp_path, mix, methods=["lora_activated"], seeds=2, learning_rates=[0.1, 0.2, 0.3], test=test)
    best = {f"lora_activated/seed0-lr{rate}-validation-sums": "1 1 1 1 1" for rate in (0.2, 0.3)}
    say_right(tmp_path, best)
    experiment = open_experiment(design)
    experiment.carry_out(fake_executor(tmp_path), "best")
    name = "lora_activated-seed"
    assert calls(tmp_path) == [
        *(f"{step}-{name}0-lr{rate}{end}" for rate in (0.1, 0.2, 0.3) for step, end in TRAIN_AND_EVAL),
        f"eval-{name}0-lr0.2-test",  # of equal rates the smaller one; it is asked the test only when it was chosen
        *(f"{step}-{name}1{end}" for step, end in (*TRAIN_AND_EVAL, ("eval", "-test"))),
    ]  # fmt: skip
    search = experiment.searches()["lora_activated"]
    assert (search.chosen, dict(search.tried)) == (0.2, {0.1: 0.6, 0.2: 0.8, 0.3: 0.8})
    runs = tmp_path / "experiment" / "runs" / "lora_activated"
    assert "learning_rate: 0.2" in (runs / "seed1" / "recipe.yaml").read_text()
    assert not list((runs / "seed0-lr0.1").rglob("*.safetensors"))
