"""Signals that end a run, before training has handlers of its own: the imports alone take many seconds."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import resource_tracker
from types import FrameType

from llava_mocle.data.worker_process import SIGNALS
from llava_mocle.errors import Preempted
from llava_mocle.io.exit_file import is_ctrl_c, leave_exit_code

CTRL_C = "Ctrl-C"


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Inside the block none of `SIGNALS` arrives. A process that is started there never gets one.

    A scheduler signals every process of a job, and a terminal every process of a command. Helper processes have to
    outlive that, as the main process uses them to the end. They inherit the mask.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def protect_tracker() -> None:
    """Start multiprocessing's resource tracker out of reach of the signals.

    Some libraries start it when they are imported, so this has to come first.
    """
    with signals_blocked():
        resource_tracker.ensure_running()


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None], numbers: Iterable[int] = SIGNALS) -> Iterator[None]:
    """Inside the block, `handler` gets these signals. Only the main thread may set that; in another, do nothing."""
    try:
        before = {number: signal.signal(number, handler) for number in numbers}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def leaving_early() -> AbstractContextManager[None]:
    """Inside the block, a signal ends the process with a preempted run's exit code, until other handlers are installed.

    Signals that a launcher has this process ignore stay ignored.
    """
    numbers = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # Python has a handler of its own for it
        numbers.append(signal.SIGINT)
    return handling(_leave, numbers)


def name_of(number: int) -> str:
    """What a person calls the signal."""
    return CTRL_C if number == signal.SIGINT or is_ctrl_c() else signal.Signals(number).name


def _leave(number: int, frame: FrameType | None) -> None:
    # No exception: a library that is being imported may catch it.
    name = name_of(number)
    came = f"interrupted by {CTRL_C}" if name == CTRL_C else f"preempted: {name} came"
    os.write(2, f"{came} before training: nothing was lost\n".encode())
    leave_exit_code(Preempted.exit_code)
    os._exit(Preempted.exit_code)
