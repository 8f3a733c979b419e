"""Ranks end when torchrun was killed: nobody else would end them, and they would hold GPUs and the output folder."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_INTERVAL_S = 1.0


@contextmanager
def ending_with_launcher() -> Iterator[None]:
    """Inside the block, a process that torchrun started treats torchrun's death like a SIGTERM of the scheduler."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    done = threading.Event()
    threading.Thread(target=_watch, args=(os.getppid(), done), name="launcher", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(launcher: int, done: threading.Event) -> None:
    while not done.wait(_INTERVAL_S):
        if os.getppid() != launcher:
            os.write(2, b"torchrun has ended without this process\n")
            os.kill(os.getpid(), signal.SIGTERM)
            return
