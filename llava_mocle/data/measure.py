"""How long every row is, and which rows `max_length` would spoil."""

import logging
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from llava_mocle.data.tokenize import RowTooLong
from llava_mocle.data.worker_process import follow_main
from llava_mocle.errors import UserError
from llava_mocle.io.progress import Progress, progress

logger = logging.getLogger(__name__)

DROPPED = -1
# Processes need seconds to start; this many rows take about as long.
_MANY_ROWS = 100_000
# More processes take more memory than the time they save is worth: each imports torch.
_MOST_PROCESSES = 16
# Rows that are measured at a time: what a tokenizer returns is larger than its text, and Ctrl-C waits for them.
_CHUNK = 250
# Progress is reported after so many seconds.
_PATIENCE_S = 2.0


def length_within(max_length: int | None, counted: int | None, tokenize: Callable[[], Sequence[Any]]) -> int:
    """A sample's length, or DROPPED if `max_length` would spoil its row.

    Args:
        counted: the tokens of the whole row, where they have been counted; None where the row has to be tokenized.
        tokenize: the row's tokens, cut at `max_length`; raises RowTooLong if that would spoil it. It is called where
            the number alone does not tell.
    """
    if counted is not None and (max_length is None or counted <= max_length):
        return counted
    try:
        return len(tokenize())
    except RowTooLong:
        return DROPPED


def measure_rows(measure: Callable[[range], Sequence[int]], count: int, processes: int | None = None) -> np.ndarray:
    """Measure rows 0 to `count` - 1, many of them in several processes.

    Args:
        measure: indices of rows -> the length of each, or DROPPED. It is pickled once for each process.
        processes: how many; None: one for few rows, else one for each CPU that this process may use.

    Returns:
        The lengths, int64 (count,).

    Raises:
        UserError: what `measure` raises, of the first such row.
    """
    if processes is None:
        processes = _processes_for(count)
    if processes > 1:
        try:
            return _measure_in_processes(measure, count, processes)
        except UserError:
            raise
        except Exception as error:
            logger.warning("rows are measured in one process: several failed (%s: %s)", type(error).__name__, error)
    with _progress(count) as bar:
        lengths = np.empty(count, dtype=np.int64)
        for chunk in _chunks(count):
            lengths[chunk.start : chunk.stop] = measure(chunk)
            bar.update(len(chunk))
    return lengths


def _chunks(count: int) -> list[range]:
    return [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]


def _processes_for(count: int) -> int:
    if count < _MANY_ROWS:
        return 1
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # The ranks of a run on this machine may all be measuring.
    return min(_MOST_PROCESSES, max(1, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _measure_in_processes(measure: Callable[[range], Sequence[int]], count: int, processes: int) -> np.ndarray:
    # Not forked from here: this process may have threads and a CUDA context, which do not survive a fork.
    context = multiprocessing.get_context("forkserver")
    lengths: list[np.ndarray] = []
    with ProcessPoolExecutor(processes, context, _start_process, (measure,)) as pool, _progress(count) as bar:
        for found in pool.map(_measure_chunk, _chunks(count)):
            lengths.append(found)
            bar.update(len(found))
    return np.concatenate(lengths)


# What a process of `_measure_in_processes` measures rows with.
_measure: Callable[[range], Sequence[int]]


def _start_process(measure: Callable[[range], Sequence[int]]) -> None:
    global _measure
    follow_main()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _measure = measure


def _measure_chunk(chunk: range) -> np.ndarray:
    return np.array(_measure(chunk), dtype=np.int64)


def _progress(count: int) -> AbstractContextManager[Progress]:
    return progress(count, "measuring rows", "row", patience=_PATIENCE_S)
