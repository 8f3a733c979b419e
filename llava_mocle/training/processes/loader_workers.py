"""The loader's worker processes: how they start and end, their signals, and how their deaths are reported."""

import functools
import multiprocessing
import re
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any

import torch

from llava_mocle.data.worker_process import follow_main
from llava_mocle.errors import DataError, UserError
from llava_mocle.training.processes.early_signals import protect_tracker, signals_blocked

# A killed process may outlive this time while the kernel waits for a file system that does not answer.
_PATIENCE_S = 5.0
# What multiprocessing raises where it talks to a process that has died.
_LOST_CONNECTION = (ConnectionError, EOFError, FileNotFoundError)


def start_workers_safely(args: Any) -> None:
    """With several ranks: fork loader workers from a process that has no threads, and only once in a run.

    A process that is forked while another thread (of gloo, for example) starts or ends may hang for ever in its first
    instructions: this was seen after some dozens of forks with CPython 3.11.
    """
    if args.dataloader_num_workers == 0 or args.world_size == 1:
        return
    args.dataloader_persistent_workers = True
    if args.dataloader_multiprocessing_context is None:
        args.dataloader_multiprocessing_context = "forkserver"
        # The fork server imports it once, and the workers share its memory.
        forkserver.set_forkserver_preload(["llava_mocle.data.dataset"])
        protect_tracker()  # else the fork server would start it, and lift the block again
        with signals_blocked():
            forkserver.ensure_running()


def isolate_workers(loader: Any, seed: int) -> Any:
    """Keep a loader's workers apart from a scheduler's signals, and from the run's random state; returns the loader.

    A signal goes to every process of a job, but the main process needs its workers to finish its step.

    A loader that starts draws a seed for its workers, by default from the random state that gate noise and dropout use.
    When a loader starts depends on where a run was cut off, so this one gets a generator of its own.
    """
    inner = getattr(loader, "base_dataloader", loader)
    inner.generator = torch.Generator().manual_seed(seed)
    if not isinstance(inner.worker_init_fn, functools.partial) or inner.worker_init_fn.func is not _start:
        inner.worker_init_fn = functools.partial(_start, inner.worker_init_fn)
    return loader


def _start(then: Any, worker: int) -> None:
    """What a worker does first."""
    follow_main()
    sys.excepthook = functools.partial(_report_unless_hung_up, sys.excepthook)
    if then is not None:
        then(worker)


def _report_unless_hung_up(hook: Any, kind: type[BaseException], error: BaseException, *trace: Any) -> None:
    """Say nothing about a main process that closed the connection while it fetched a batch.

    It does so when another worker has died, and reports that. This hook is called by the thread that hands out the
    worker's tensors; the worker's other errors are sent to the main process.
    """
    if not issubclass(kind, ConnectionError | EOFError):
        hook(kind, error, *trace)


def is_worker_gone(error: BaseException) -> bool:
    """Whether this is torch's report of a dead worker. Its signal handler raises that wherever the main thread is.

    An error that a living worker has raised begins with "Caught ..." instead.
    """
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


def _is_lost_connection(error: BaseException) -> bool:
    """Whether multiprocessing has found that a worker is gone, while it fetched a batch from it.

    It does that in this thread, or in torch's thread that pins memory, which passes on the error's type and text.
    """
    if not isinstance(error, _LOST_CONNECTION):
        return False
    if str(error).startswith("Caught "):
        return "in pin memory thread" in str(error).partition("\n")[0]
    frame, _ = list(traceback.walk_tb(error.__traceback__))[-1]
    return frame.f_globals["__name__"].startswith("multiprocessing.")


def name_failed_rows(work: Callable[[], None], *datasets: Any) -> None:
    """Do `work`, and make one line with the row of what torch says of a loader worker's failure.

    A worker may die while the main process does something else, so `work` is all of training. Every other error keeps
    its type and its traceback. Whatever the error, the workers that are left are killed.

    This is no context manager: torch's signal handler can raise its report while another error is on its way, and the
    first steps of a context manager's exit are outside of all its `try` blocks.

    Raises:
        UserError: as the dataset raised it, without the worker's traceback that torch adds to the message.
        DataError: a worker has died; names the rows of these datasets (None: no dataset) that workers were loading.
    """
    try:
        try:
            work()
        except BaseException:
            end_workers()  # torch reports no death after this; if it does so here, its error takes this one's place
            raise
    except UserError as error:
        # torch makes "Caught ..." of it, then a traceback, then the error's type and its own message.
        text = str(error)
        starts = list(re.finditer(rf"^(?:[\w.]+\.)?{type(error).__name__}: ", text, flags=re.MULTILINE))
        if not text.startswith("Caught ") or not starts:
            raise
        raise type(error)(text[starts[-1].end() :].strip()) from error
    except Exception as error:
        # What is raised when a worker has died depends on what the main process was waiting for.
        if not (is_worker_gone(error) or _is_lost_connection(error)):
            raise
        rows = [row for dataset in datasets if dataset is not None for row in dataset.rows_in_work()]
        said = " ".join(str(error).split()) or type(error).__name__
        at = f"workers were at: {'; '.join(rows)}. Look at these images, or" if rows else "no worker was at a row;"
        remedy = "give the job more memory or fewer dataloader_num_workers"
        raise DataError(f"a loader worker is gone ({said}); {at} {remedy}") from error


def end_workers() -> None:
    """Kill the workers that are left: multiprocessing would end them by SIGTERM, which they ignore.

    torch's handler of SIGCHLD would raise an error for each of them, so it is switched off meanwhile.
    """
    children = multiprocessing.active_children()
    try:
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except ValueError:  # this is not the main thread, and torch's handler raises nothing here
        handler = None
    for child in children:
        child.kill()
    for child in children:
        child.join(_PATIENCE_S)
    if handler is not None:
        signal.signal(signal.SIGCHLD, handler)
