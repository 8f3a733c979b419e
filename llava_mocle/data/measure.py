"""How long every row is, and which rows `max_length` would spoil."""

import logging
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from llava_mocle.data.conversation import IMAGE_TOKEN, Template, row_turns
from llava_mocle.data.tokenize import RowTooLong
from llava_mocle.data.worker_process import follow_main
from llava_mocle.errors import UserError
from llava_mocle.io.progress import Progress, progress

logger = logging.getLogger(__name__)

DROPPED = -1
# A token is rarely longer than this many bytes on average; only the order of the estimates matters.
_BYTES_A_TOKEN = 4
# Start-of-text token, the "▁" of the first piece, the first supervised token.
_SPARE = 4
# Processes need seconds to start; this many rows take about as long.
_MANY_ROWS = 100_000
# More processes take more memory than the time they save is worth: each imports torch.
_MOST_PROCESSES = 16
# Rows that a process measures at a time. Ctrl-C waits for them.
_CHUNK = 1000
# Progress is reported after so many seconds.
_PATIENCE_S = 2.0


def measure_row(
    row: Mapping[str, Any],
    template: Template,
    tokenize: Callable[[Mapping[str, Any]], Any],
    tokens_an_image: int,
    max_length: int | None,
) -> int:
    """A row's estimated tokens, or DROPPED if `max_length` would spoil it.

    Args:
        tokenize: raises RowTooLong for such a row.
    """
    rendered = template.render(row_turns(row))
    tags = rendered.text.count(IMAGE_TOKEN)
    images = tags * tokens_an_image
    if max_length is not None:
        # A token stands for at least one byte, so a row whose part that must not be cut off (the images, the start of
        # the first answer) has few bytes fits for certain: most rows need not be tokenized here. A tokenizer may put a
        # "▁" in front of the text behind an image; the bytes of the image's tag, which are counted too, cover it.
        needed = max(rendered.text.rfind(IMAGE_TOKEN) + len(IMAGE_TOKEN) if tags else 0, rendered.assistant_spans[0][0])
        if len(rendered.text[:needed].encode()) + images + _SPARE >= max_length:
            try:
                tokenize(row)
            except RowTooLong:
                return DROPPED
    return images + len(rendered.text.encode()) // _BYTES_A_TOKEN


def measure_rows(measure: Callable[[int], int], count: int, processes: int | None = None) -> np.ndarray:
    """Measure rows 0 to `count` - 1, many of them in several processes.

    Args:
        measure: a row's index -> its `measure_row`. It is pickled once for each process.
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
        for index in range(count):
            lengths[index] = measure(index)
            bar.update()
    return lengths


def _processes_for(count: int) -> int:
    if count < _MANY_ROWS:
        return 1
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # The ranks of a run on this machine may all be measuring.
    return min(_MOST_PROCESSES, max(1, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _measure_in_processes(measure: Callable[[int], int], count: int, processes: int) -> np.ndarray:
    # Not forked from here: this process may have threads and a CUDA context, which do not survive a fork.
    context = multiprocessing.get_context("forkserver")
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    lengths: list[np.ndarray] = []
    with ProcessPoolExecutor(processes, context, _start_process, (measure,)) as pool, _progress(count) as bar:
        for found in pool.map(_measure_chunk, chunks):
            lengths.append(found)
            bar.update(len(found))
    return np.concatenate(lengths)


# What a process of `_measure_in_processes` measures rows with.
_measure: Callable[[int], int]


def _start_process(measure: Callable[[int], int]) -> None:
    global _measure
    follow_main()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _measure = measure


def _measure_chunk(chunk: range) -> np.ndarray:
    return np.array([_measure(index) for index in chunk], dtype=np.int64)


def _progress(count: int) -> AbstractContextManager[Progress]:
    return progress(count, "measuring rows", "row", patience=_PATIENCE_S)
