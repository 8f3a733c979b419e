"""Carrying out runs: several at a time, each by one process at most, and going on where an earlier start ended."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from llava_mocle.evaluation.scores.results import write_json
from llava_mocle.experiment.folder import LOG, RECIPE, RunFolder, State
from llava_mocle.experiment.processes import PROGRAM, SEVERAL, STOPPED_CODES, Processes
from llava_mocle.io.files import lock
from llava_mocle.io.folders import only_one
from llava_mocle.io.jsonl import read_json

# How often a run is looked at that another process works on.
_LOOK_S = 1.0


@dataclass(frozen=True)
class Failure:
    """A run that failed: the step, its exit code, and where to read why."""

    run: str
    step: str
    code: int
    log: Path


class StepFailed(Exception):
    """A command of a run ended with an exit code."""

    def __init__(self, step: str, code: int, log: Path) -> None:
        super().__init__(step)
        self.step, self.code, self.log = step, code, log


@dataclass
class Executor:
    """Works through the runs of a grid.

    Attributes:
        jobs: how many at a time.
        devices: the GPUs, as CUDA_VISIBLE_DEVICES names them; run i of those at work has the i-th. None: no choice.
        overwrite: runs that were made of something else are made anew.
        say: what a line of progress is given to.
        program, several: how a command starts, and several in one process.
    """

    processes: Processes
    jobs: int = 1
    devices: Sequence[str] = ()
    overwrite: bool = False
    say: Callable[[str], None] = print
    program: Sequence[str] = PROGRAM
    several: Sequence[str] = SEVERAL
    failures: list[Failure] = field(default_factory=list)

    def work_through(self, folders: Sequence[RunFolder]) -> None:
        """Carry out the runs that are not done. A failing one does not stop the others; see `failures`.

        Returns when all are done or failed, or when `processes` was told to stop and what ran has ended.
        """
        waiting = deque(folder for folder in folders if folder.state() != State.DONE)
        clock = _Clock(len(waiting), self.jobs, self.say)
        if not waiting:
            return
        errors: list[BaseException] = []
        workers = [
            threading.Thread(target=self._worker, args=(number, waiting, clock, errors), name=f"run {number}")
            for number in range(min(self.jobs, len(waiting)))
        ]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                worker.join()
        except KeyboardInterrupt:  # which the commands got too, as they are of the same group of processes
            self.processes.stop()
            for worker in workers:
                worker.join()
            raise
        if errors:
            raise errors[0]

    def _worker(self, number: int, waiting: "deque[RunFolder]", clock: "_Clock", errors: list[BaseException]) -> None:
        try:
            while not self.processes.stopping.is_set():
                try:
                    folder = waiting.popleft()
                except IndexError:
                    return
                if not self._work_on(folder, number, clock):
                    waiting.append(folder)
                    self.processes.stopping.wait(_LOOK_S)
        except BaseException as error:  # a mistake of the program: end the others, and tell it in the main thread
            errors.append(error)
            self.processes.stop()

    def _work_on(self, folder: RunFolder, number: int, clock: "_Clock") -> bool:
        """Carry out a run, unless another process does; returns whether it is settled."""
        with _claimed(folder.lock) as held:
            if held is None:
                return False
            if folder.state() == State.DONE:  # by another process, meanwhile
                clock.done(folder, "was done by another process")
                return True
            try:
                seconds = self.perform(folder, self._environment(number), held)
            except InterruptedError:
                return True
            except StepFailed as failed:
                if self.processes.stopping.is_set():
                    return True
                if failed.code in STOPPED_CODES:  # somebody else stopped the command: the machine is being taken away
                    self.processes.stop()
                    return True
                self.failures.append(Failure(folder.run.name, failed.step, failed.code, failed.log))
                clock.done(folder, f"FAILED in {failed.step} (exit code {failed.code}); see {failed.log}", failed=True)
                return True
            clock.done(folder, f"done in {_time(seconds)}", seconds)
            return True

    def perform(self, folder: RunFolder, environment: Mapping[str, str], held: int) -> float:
        """The steps of a run that are not done yet; returns the seconds that they took.

        Raises:
            StepFailed: a command failed.
            InterruptedError: `processes` was told to stop.
        """
        folder.begin(self.overwrite)
        log = folder.path / LOG
        seconds: dict[str, float] = {}
        peaks: dict[str, float] = {}

        def step(name: str, words: Sequence[str], log: Path = log) -> None:
            spent = self.processes.run(words, log, environment, [held])
            if spent.code:
                raise StepFailed(name, spent.code, log)
            seconds[name], peaks[name] = spent.seconds, spent.peak_mib

        if not folder.is_trained():
            self._cluster(folder, step)
            step("train", [*self.program, "train", str(folder.path / RECIPE)])
        splits = [split for split in folder.unasked() if folder.domains(split)]
        if splits:
            commands = [self._eval_words(folder, split) for split in splits]
            step("eval", [*self.several, *commands[0], *(word for one in commands[1:] for word in ("--then", *one))])
        folder.finish(seconds, peaks)
        return sum(seconds.values())

    def _cluster(self, folder: RunFolder, step: Callable[[str, Sequence[str], Path], None]) -> None:
        """Fit the run's cluster model, unless another run of the same clusters did."""
        if folder.run.clusters is None:
            return
        place = folder.grid.root / "clusters" / folder.run.clusters
        made_of, record = {"rows": folder.made_of["rows"]}, place.with_name(f"{place.name}.json")
        with only_one(record, "`llava-mocle compare`"):
            before = read_json(record) if record.is_file() else None
            if before == made_of:
                return
            words = [*self.program, "cluster", "--recipe", str(folder.path / RECIPE)]
            step("cluster", words + ([] if before is None else ["--overwrite"]), place.with_name(f"{place.name}.log"))
            write_json(record, made_of)

    def _eval_words(self, folder: RunFolder, split: str) -> list[str]:
        asked = folder.grid.design.eval
        return [
            "eval", "--model", str(folder.train), "--recipe", str(folder.path / f"{split}.yaml"),
            "--output", str(folder.eval(split)), "--batch-size", str(asked.batch_size),
            "--max-new-tokens", str(asked.max_new_tokens),
        ]  # fmt: skip

    def _environment(self, number: int) -> dict[str, str]:
        """The environment of the commands of one worker: its share of the processor's cores, and its GPU."""
        cores = len(os.sched_getaffinity(0))
        environment = {
            "OMP_NUM_THREADS": str(max(1, cores // self.jobs)), "TOKENIZERS_PARALLELISM": "false"
        } | dict(os.environ)  # fmt: skip
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[number % len(self.devices)]
        return environment


class _Clock:
    """Says which runs are done, and how long the others may take."""

    def __init__(self, total: int, jobs: int, say: Callable[[str], None]) -> None:
        self.total, self.jobs, self.say = total, jobs, say
        self.settled = 0
        self.times: list[float] = []
        self._lock = threading.Lock()

    def done(self, folder: RunFolder, what: str, seconds: float | None = None, failed: bool = False) -> None:
        with self._lock:
            self.settled += 1
            if seconds is not None:
                self.times.append(seconds)
            left = self.total - self.settled
            about = ""
            if left and self.times:
                about = f"; about {_time(sum(self.times) / len(self.times) * left / self.jobs)} left"
            self.say(f"[{self.settled}/{self.total}] {folder.run.name}: {what}{about}")


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"


@contextmanager
def _claimed(path: Path) -> Iterator[int | None]:
    """The open file of a lock that this process holds inside the block; None where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield descriptor if lock(descriptor, path) else None
    finally:
        os.close(descriptor)
