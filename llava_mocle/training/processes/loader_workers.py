"""Loader workers: signals that are not for them, and what they say when they fail."""

import functools
import multiprocessing
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from llava_mocle.data.worker_process import follow_main
from llava_mocle.errors import DataError, UserError

# A killed process whose file system does not answer goes when that does.
_PATIENCE_S = 5.0


def start_workers_safely(args: Any) -> None:
    """With several processes, start loader workers from a process without threads, and once a run.

    A process that is forked while another thread (gloo's, say) is being made or ended may hang for ever in its first
    instructions: seen after some dozens of forks with CPython 3.11.
    """
    if args.dataloader_num_workers == 0 or args.world_size == 1:
        return
    args.dataloader_persistent_workers = True
    if args.dataloader_multiprocessing_context is None:
        args.dataloader_multiprocessing_context = "forkserver"
        # Imported there once, its pages are shared by the workers.
        multiprocessing.get_context("forkserver").set_forkserver_preload(["llava_mocle.training.processes.forkserver"])


def settle(loader: Any, seed: int) -> Any:
    """Make a loader outlive a scheduler's signal, and leave the run's random state alone.

    The signal goes to every process of a job, and the main process finishes its step with its workers. A loader that
    starts takes a seed for them from the random state that noise and dropout use, and when one starts depends on where
    a run was cut off; so it gets a generator of its own.
    """
    inner = getattr(loader, "base_dataloader", loader)
    inner.generator = torch.Generator().manual_seed(seed)
    if not isinstance(inner.worker_init_fn, functools.partial) or inner.worker_init_fn.func is not _start:
        inner.worker_init_fn = functools.partial(_start, inner.worker_init_fn)
    return loader


def _start(then: Any, worker: int) -> None:
    follow_main()
    sys.excepthook = functools.partial(_unless_hung_up, sys.excepthook)
    if then is not None:
        then(worker)


def _unless_hung_up(hook: Any, kind: type[BaseException], error: BaseException, *trace: Any) -> None:
    """Say nothing of a main process that hung up in the middle of fetching a batch: another worker died, it says so.

    The thread that hands out a worker's tensors calls the hook; the worker's own errors go to the main process.
    """
    if not issubclass(kind, ConnectionError | EOFError):
        hook(kind, error, *trace)


class NamingIterator:
    """A loader's iterator whose errors name the row.

    Raises:
        UserError: as the dataset raised it, without the worker's traceback that torch puts around the message.
        DataError: a worker was killed; names the rows that the workers were at.
    """

    def __init__(self, batches: Any, dataset: Any) -> None:
        self.batches, self.dataset = batches, dataset

    def __iter__(self) -> "NamingIterator":
        return self

    def __next__(self) -> Any:
        try:
            return next(self.batches)
        except UserError as error:
            raise type(error)(_message(error)) from error
        except (RuntimeError, OSError, EOFError) as error:
            # What torch raises when a worker is gone depends on what it was waiting for.
            rows = self.dataset.rows_in_work()
            if not rows and not is_worker_gone(error) and not isinstance(error, ConnectionError | EOFError):
                raise
            raise _worker_gone(error, rows) from error


class NamingLoader:
    """A loader whose iterators are `NamingIterator`s; in all else the loader itself."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> NamingIterator:
        return NamingIterator(iter(self.loader), self.loader.dataset)

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def is_worker_gone(error: BaseException) -> bool:
    """Whether this is torch's news of a dead worker, which a signal handler raises wherever the main thread is."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


@contextmanager
def naming_rows(*datasets: Any) -> Iterator[None]:
    """Inside the block, a worker that is killed while the main process does something else is reported with its row.

    Raises:
        DataError: names the rows of these datasets (None: no dataset) that workers were at.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_worker_gone(error):
            raise
        rows = [row for dataset in datasets if dataset is not None for row in dataset.rows_in_work()]
        raise _worker_gone(error, rows) from error


def end_workers() -> None:
    """Kill what is left of the workers: they ignore SIGTERM, by which multiprocessing would end them at exit.

    Their deaths are no news: torch's handler, which would raise an error about each, does not hear of them.
    """
    children = multiprocessing.active_children()
    try:
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except ValueError:  # not the main thread, which is the one that torch's handler would disturb
        handler = None
    for child in children:
        child.kill()
    for child in children:
        child.join(_PATIENCE_S)
    if handler is not None:
        signal.signal(signal.SIGCHLD, handler)


def _worker_gone(error: Exception, rows: list[str]) -> DataError:
    said = " ".join(str(error).split()) or type(error).__name__
    at = f"workers were at: {'; '.join(rows)}. Look at these images, or" if rows else "no worker was at a row;"
    return DataError(f"a loader worker is gone ({said}); {at} give the job more memory or fewer dataloader_num_workers")


def _message(error: UserError) -> str:
    """The error's own message, out of what torch makes of it: "Caught ...", a traceback, and then the message."""
    text = str(error)
    starts = list(re.finditer(rf"^(?:[\w.]+\.)?{type(error).__name__}: ", text, flags=re.MULTILINE))
    return text[starts[-1].end() :].strip() if text.startswith("Caught ") and starts else text
