"""The commands of an experiment, each in a process of its own, and how they are told to stop."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAM = (sys.executable, "-m", "llava_mocle.cli.main")
# Several commands in one process, which loads its libraries once.
SEVERAL = (sys.executable, "-m", "llava_mocle.cli.several")
# Of train and compare: the machine was taken away, or Ctrl-C came; the same command goes on.
STOPPED_CODES = (75, 130)


@dataclass(frozen=True)
class Spent:
    """What a process took.

    Attributes:
        code: its exit code, negative for the signal that ended it.
        peak_mib: its largest resident memory, in MiB; on a GPU that is not the GPU's.
    """

    code: int
    seconds: float
    peak_mib: float


class Processes:
    """Starts commands, and passes a signal on to all that run.

    Attributes:
        stopping: set once no further command may start.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, words: Sequence[str], log: Path, environment: Mapping[str, str], held: Sequence[int] = ()) -> Spent:
        """Run a command to its end; what it prints is appended to `log`.

        Args:
            held: open files that the process keeps open, so that their locks last as long as it lives, also where this
                process is killed.

        Raises:
            InterruptedError: nothing may start any more.
        """
        started = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            file.write(("$ " + " ".join(words) + "\n").encode())
            file.flush()
            with self._lock:
                if self.stopping.is_set():
                    raise InterruptedError
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=dict(environment),
                    pass_fds=tuple(held),
                )  # fmt: skip
                self._running.add(process)
            try:
                _, status, usage = os.wait4(process.pid, 0)
            finally:
                with self._lock:
                    self._running.discard(process)
            # `Popen` would wait for the process as well.
            process.returncode = os.waitstatus_to_exitcode(status)
        return Spent(process.returncode, time.monotonic() - started, usage.ru_maxrss / 1024)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Start nothing any more, and send a signal to what runs: a training saves a checkpoint then."""
        with self._lock:
            self.stopping.set()
            for process in self._running:
                process.send_signal(number)
