"""What each loader worker is working on, in memory that outlives the worker."""

import os

import torch
from torch.utils.data import get_worker_info

# Workers beyond so many share places; the later note wins.
_PLACES = 1024
_IDLE = 0


class WorkLog:
    """One place a process in shared memory: (pid, sample index + 1). A worker that is killed leaves its note behind."""

    def __init__(self) -> None:
        self._notes = torch.zeros(_PLACES, 2, dtype=torch.long).share_memory_()

    def start(self, index: int) -> None:
        """Note that this process begins with a sample."""
        self._notes[self._place()] = torch.tensor([os.getpid(), index + 1])

    def done(self) -> None:
        """Note that it has ended, with or without an error."""
        self._notes[self._place(), 1] = _IDLE

    def in_work(self) -> list[tuple[int, int]]:
        """(pid, sample index) of every process that began with a sample and has not ended it."""
        return [(pid, noted - 1) for pid, noted in self._notes.tolist() if noted != _IDLE]

    @staticmethod
    def _place() -> int:
        info = get_worker_info()
        return 0 if info is None else 1 + info.id % (_PLACES - 1)
