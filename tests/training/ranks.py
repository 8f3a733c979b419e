"""Real runs in processes of their own: one process a rank, as srun starts them, on a port of their own."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ZERO = {stage: str(ROOT / "zero_configs" / f"zero{stage}_cpu.json") for stage in (2, 3)}
TIMEOUT_S = 240


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@dataclass
class Ranks:
    """The processes of one run, and where each writes what it says."""

    processes: list[subprocess.Popen]
    logs: list[Path]

    def wait(self, timeout: float = TIMEOUT_S) -> list[int]:
        """Their exit codes; all are killed when one does not end in time."""
        try:
            return [process.wait(timeout) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def output(self, rank: int = 0) -> str:
        return self.logs[rank].read_text()


def start(
    folder: Path,
    recipe: Path,
    *words: str,
    count: int = 1,
    environment: dict | None = None,
    folders: Sequence[Path] | None = None,
) -> Ranks:
    """`llava-mocle train RECIPE WORDS` on `count` processes, each in its own of `folders` if there are any."""
    folder.mkdir(parents=True, exist_ok=True)
    surroundings = (
        os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)} | (environment or {})
    )
    port = str(free_port())
    processes, logs = [], []
    for rank in range(count):
        if count > 1:
            variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            surroundings |= {name: str(value) for name, value in variables.items()}
            surroundings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        log = folder / f"rank{rank}-{len(list(folder.iterdir()))}.log"
        command = [sys.executable, "-m", "llava_mocle.cli.main", "train", str(recipe), *words]
        with log.open("w") as file:
            cwd = folders[rank] if folders else ROOT
            processes.append(subprocess.Popen(command, cwd=cwd, env=surroundings, stdout=file, stderr=file))
        logs.append(log)
    return Ranks(processes, logs)


def run(folder: Path, recipe: Path, *words: str, count: int = 1) -> Ranks:
    """As `start`, to a good end."""
    ranks = start(folder, recipe, *words, count=count)
    codes = ranks.wait()
    assert codes == [0] * count, "\n".join(ranks.output(rank)[-3000:] for rank in range(count))
    return ranks


def history(folder: Path) -> list[tuple[float, float]]:
    """(loss, gradient norm) of every logged step."""
    entries = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [(entry["loss"], entry["grad_norm"]) for entry in entries if "loss" in entry]
