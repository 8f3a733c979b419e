"""A scheduler's signals before training has its own handlers, which come with imports of many seconds."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

from llava_mocle.errors import Preempted
from llava_mocle.io.exit_file import leave_exit_code

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def protect_tracker() -> None:
    """Start multiprocessing's resource tracker so that it outlives the signals, which go to every process of a job.

    It serves this process to its end. Some libraries start it when they are imported, so this comes first.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()  # it keeps the mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def leaving_early() -> Iterator[None]:
    """Inside the block, until other handlers are installed, a signal ends the process with a preempted run's exit code.

    Signals that a launcher has this process ignore stay ignored. Only the main thread may install handlers: elsewhere,
    do nothing.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    mine = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    try:
        for number in mine:
            signal.signal(number, _leave)
    except ValueError:
        mine = []
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def _leave(number: int, frame: FrameType | None) -> None:
    # Not an exception: what is being imported may catch it.
    os.write(2, f"preempted: {signal.Signals(number).name} came before training: nothing was lost\n".encode())
    leave_exit_code(Preempted.exit_code)
    os._exit(Preempted.exit_code)
