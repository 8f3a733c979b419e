"""Real runs in processes of their own: one process a rank, as srun starts them, on a port of their own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.processes import free_port

ROOT = Path(__file__).parents[2]
ZERO = {stage: str(ROOT / "zero_configs" / f"zero{stage}_cpu.json") for stage in (2, 3)}
TIMEOUT_S = 400
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
STARTED: list["Ranks"] = []


@dataclass
class Ranks:
    """The processes of one run, and where each writes what it says."""

    processes: list[subprocess.Popen]
    logs: list[Path]

    def wait(self, timeout: float = TIMEOUT_S) -> list[int]:
        """Their exit codes; all are ended when one does not end in time."""
        try:
            return [process.wait(timeout) for process in self.processes]
        finally:
            self.end()

    def end(self) -> None:
        """Kill what is left of them, and of the processes that they started."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def output(self, rank: int = 0) -> str:
        return self.logs[rank].read_text()


def start(
    folder: Path,
    recipe: Path,
    *words: str,
    count: int = 1,
    environment: dict | None = None,
    folders: Sequence[Path] | None = None,
    program: Sequence[str] = ("-m", "llava_mocle.cli.main"),
) -> Ranks:
    """`llava-mocle train RECIPE WORDS` on `count` processes, each in its own of `folders` if there are any.

    `program` is what takes the place of `llava-mocle`, as words of python. Whatever is left of the processes goes when
    the test ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Runs inside the tests' own process leave what a launcher sets, such as a port that is taken by now.
    surroundings = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
    surroundings |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)} | (environment or {})
    port = str(free_port())
    ranks = Ranks([], [])
    STARTED.append(ranks)
    for rank in range(count):
        if count > 1:
            variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            surroundings |= {name: str(value) for name, value in variables.items()}
            surroundings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        log = folder / f"rank{rank}-{len(list(folder.iterdir()))}.log"
        command = [sys.executable, *program, "train", str(recipe), *words]
        with log.open("w") as file:
            cwd = folders[rank] if folders else ROOT
            # A group of its own, by which its workers are found when it has ended.
            process = subprocess.Popen(
                command, cwd=cwd, env=surroundings, stdout=file, stderr=file, start_new_session=True
            )
        ranks.processes.append(process)
        ranks.logs.append(log)
    return ranks


def end_all() -> None:
    """Of the test that is over."""
    while STARTED:
        STARTED.pop().end()


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
