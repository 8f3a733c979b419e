"""The .sbatch files on a real SLURM of two nodes (CPU, gloo): to the end, preempted, cancelled, with a dead rank."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_mocle.model.load import load_model
from tests.processes import free_port
from tests.scripts.slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
ROOT = Path(__file__).parents[2]
# Enough of them that the last is far when a signal takes some seconds to arrive.
STEPS = 400
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


class Job:
    """The (last) job that a script submits as a user would call it: variables, words."""

    def __init__(self, slurm: SlurmCluster, script: str, logs: Path, *words: str, **variables: str) -> None:
        self.slurm = slurm
        variables = {
            "NODES": "2", "GPUS_PER_NODE": "0", "CPUS_PER_TASK": "1", "TIME": "20:00", "LOG_DIR": str(logs),
            "MASTER_ADDR": "127.0.0.1", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "MAX_REQUEUES": "2",
            "MASTER_PORT": str(free_port()),
        } | variables  # fmt: skip
        command = ["bash", f"scripts/slurm/{script}.sbatch", *words]
        environment = slurm.environment | variables
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 0, result.stderr
        self.id = result.stdout.split()[-1]
        self.log_file = logs / f"mocle-{script.removesuffix('_mocle')}-{self.id}.log"

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    @property
    def state(self) -> str:
        return self.slurm.field(self.id, "JobState")

    def _ended(self) -> bool:
        if self.state in ENDED:
            time.sleep(1)  # a job that is being requeued passes through one of these states
        return self.state in ENDED

    def _poll(self, done: Callable[[], bool], limit: float) -> None:
        end = time.monotonic() + limit
        while not done():
            assert time.monotonic() < end, f"{self.state} after {limit} s:\n{self.log[-6000:]}"
            if self.state == "PENDING" and self.slurm.field(self.id, "Restarts") not in {"", "0"}:
                # SLURM holds a requeued job back for two minutes. Some of it is needed: the node has to clean up.
                time.sleep(5)
                self.slurm.ask("scontrol", "update", f"JobId={self.id}", "StartTime=now")
            time.sleep(0.2)

    def wait_for(self, text: str, limit: float = 240) -> None:
        """Until the log says `text`."""
        self._poll(lambda: text in self.log or self._ended(), limit)
        details = self.slurm.ask("scontrol", "show", "job", self.id)
        assert text in self.log, f"the log does not say {text!r}:\n{self.log[-6000:]}\n{details}"

    def wait_to_end(self, limit: float = 240) -> str:
        self._poll(self._ended, limit)
        return self.state


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))


def rank_process(job: str, rank: int) -> int:
    """The process id of a rank of a job, found by its environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            parents_name = Path(f"/proc/{parent}/comm").read_text().strip()
        except OSError:
            continue
        # The rank itself is a child of slurmstepd; its loader workers have the same environment.
        if {f"SLURM_JOB_ID={job}".encode(), f"RANK={rank}".encode()} <= set(variables) and "slurmstepd" in parents_name:
            return int(folder.name)
    raise AssertionError(f"no rank {rank} of job {job}")


def test_a_job_trains_on_two_nodes_and_a_preempted_one_ends_the_same(slurm, recipe_file, tmp_path: Path) -> None:
    recipe = str(recipe_file(cluster_model=str(tmp_path / "fresh_clusters"), max_steps=STEPS, lora_dropout=0.1))
    logs, flags = tmp_path / "logs", ["--learning_rate", "0.005", "--output_dir"]
    whole = Job(slurm, "finetune_mocle", logs, recipe, *flags, str(tmp_path / "whole"))
    assert whole.wait_to_end() == "COMPLETED", whole.log[-6000:]
    assert "2 processes on fn[0-1]" in whole.log
    assert (tmp_path / "fresh_clusters" / "assignments.parquet").is_file()
    assert len(losses(tmp_path / "whole")) == STEPS
    assert load_model(tmp_path / "whole").recipe["learning_rate"] == 0.005

    parts = Job(slurm, "finetune_mocle", logs, recipe, *flags, str(tmp_path / "parts"))
    parts.wait_for("step     5")
    slurm.ask("scancel", "--signal=USR1", parts.id)  # what sbatch's --signal sends before the time limit
    parts.wait_for("is requeued (time 1 of at most 2)")
    (first,) = checkpoints(tmp_path / "parts")
    assert first >= 5
    parts.wait_for(f"step {first + 10:>5}")
    slurm.ask("sbatch", "--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")  # SLURM preempts it
    parts.wait_for("is requeued (time 2 of at most 2)")
    assert checkpoints(tmp_path / "parts")[:-1] == [first]
    assert first < checkpoints(tmp_path / "parts")[1] < STEPS
    assert parts.wait_to_end() == "COMPLETED", parts.log[-6000:]
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_a_dead_rank_fails_the_job_and_is_named(slurm, recipe_file, tmp_path: Path) -> None:
    job = Job(slurm, "pretrain", tmp_path / "logs", str(recipe_file(stage="pretrain", max_steps=5000)))
    job.wait_for("step     2")
    os.kill(rank_process(job.id, 1), signal.SIGKILL)
    assert job.wait_to_end(limit=60) == "FAILED"
    assert "task 1: Killed" in job.log  # srun's words
    assert "rank 1" in job.log
    assert f"job {job.id} failed with exit code" in job.log


def test_a_cancelled_job_saves_and_is_not_requeued(slurm, recipe_file, tmp_path: Path) -> None:
    job = Job(slurm, "pretrain", tmp_path / "logs", str(recipe_file(stage="pretrain", max_steps=5000)))
    job.wait_for("step     2")
    slurm.ask("scancel", job.id)
    assert job.wait_to_end(limit=60) == "CANCELLED"
    job._poll(lambda: "is not requeued by itself" in job.log, limit=30)
    assert list((tmp_path / "run").glob("checkpoint-*"))
    assert slurm.field(job.id, "Restarts") == "0"


def test_an_array_answers_in_parts_and_a_last_job_joins_them(slurm, base: Path, tmp_path: Path) -> None:
    questions = [{"question_id": number, "text": f"How much is {number} and {number}?"} for number in range(5)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    words = ["--model-path", str(base), "--question-file", str(tmp_path / "q.jsonl"), "--max_new_tokens", "2"]
    answers = tmp_path / "answers.jsonl"
    job = Job(slurm, "eval", tmp_path / "logs", *words, "--answers-file", str(answers), CHUNKS="3", NODES="1")
    logs = tmp_path / "logs"
    assert job.wait_to_end() == "COMPLETED", "".join(path.read_text()[-2000:] for path in logs.glob("*.log"))
    assert "joined 3 parts, 5 answers" in job.log
    assert [json.loads(line)["question_id"] for line in answers.read_text().splitlines()] == [0, 1, 2, 3, 4]
    turns = [{"from": "human", "value": "How much is 1 and 1?"}, {"from": "gpt", "value": "2"}]
    (tmp_path / "rows.json").write_text(json.dumps([{"id": number, "conversations": turns} for number in range(3)]))
    words = ["--model", str(base), "--rows", str(tmp_path / "rows.json"), "--output", str(tmp_path / "scored")]
    job = Job(slurm, "eval", logs, *words, "--max-new-tokens", "2", CHUNKS="2", NODES="1")
    assert job.wait_to_end() == "COMPLETED", "".join(path.read_text()[-2000:] for path in logs.glob("*.log"))
    assert json.loads((tmp_path / "scored" / "results.json").read_text())["domains"]["rows"]["n"] == 3
