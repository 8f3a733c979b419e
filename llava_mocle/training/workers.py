"""Loader workers and signals."""

import functools
import signal
from typing import Any

from llava_mocle.training.preemption import SIGNALS


def ignore_signals_in_workers(loader: Any) -> Any:
    """Make the workers of a loader outlive a scheduler's signal, which goes to every process of a job.

    The main process finishes its step with them; they end when it does.
    """
    inner = getattr(loader, "base_dataloader", loader)
    inner.worker_init_fn = functools.partial(_start, inner.worker_init_fn)
    return loader


def _start(then: Any, worker: int) -> None:
    for number in (*SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if then is not None:
        then(worker)
