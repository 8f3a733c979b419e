"""Progress of long work: a bar on a terminal, a plain line now and then in a log file."""

import math
import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self

from tqdm import tqdm

# In a log file: a line for every tenth of the work, but not more often than a second and not more rarely than this.
LINE_EVERY_S = 30.0
_SHARE, _NOT_OFTENER_S = 0.1, 1.0


class Progress(Protocol):
    """What work is reported to."""

    def update(self, n: float = 1) -> Any: ...


def shows_bars() -> bool:
    """Whether somebody watches standard error on a terminal."""
    return sys.stderr.isatty()


def progress(
    total: int,
    description: str,
    unit: str,
    *,
    initial: int = 0,
    patience: float = 0.0,
    shown: bool = True,
    unit_scale: bool = False,
) -> AbstractContextManager[Progress]:
    """The progress of one piece of work, on standard error.

    Args:
        total: units of work in all; 0 where this is not known.
        unit: what is counted, in the singular.
        initial: units that were done before.
        patience: seconds without a word; what is done by then is not mentioned at all.
        shown: False says nothing.
        unit_scale: write 1.2M for 1,234,567.
    """
    if shown and not shows_bars():
        return _Lines(total, description, unit, initial, patience, unit_scale)
    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        delay=patience,
        mininterval=1 if patience else 0.1,
        leave=not patience,
        disable=not shown,
        unit_scale=unit_scale,
    )


class _Lines:
    """Plain lines in place of a bar: no carriage return and no cursor code."""

    def __init__(self, total: int, description: str, unit: str, initial: int, patience: float, scale: bool) -> None:
        self._total, self._done, self._initial = total, float(initial), initial
        self._description, self._unit, self._scale = description, unit, scale
        self._patience = patience
        self._started = self._said = time.monotonic()
        self._next = self._after(initial)
        self._spoke_of = -1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if time.monotonic() - self._started >= self._patience and self._spoke_of != self._done:
            self._say()

    def update(self, n: float = 1) -> None:
        """`n` more units are done."""
        self._done += n
        now = time.monotonic()
        silent = now - self._said
        due = silent >= LINE_EVERY_S or (self._done >= self._next and silent >= _NOT_OFTENER_S)
        if due and now - self._started >= self._patience:
            self._say()

    def _say(self) -> None:
        now = time.monotonic()
        self._said, self._spoke_of = now, self._done
        self._next = self._after(self._done)
        taken, new = now - self._started, self._done - self._initial
        so_far, time_taken = self._number(self._done), tqdm.format_interval(taken)
        if not self._total:
            said = f"{so_far} {self._unit}{'' if self._done == 1 else 's'} in {time_taken}"
        else:
            share = self._done / self._total
            left = f", about {tqdm.format_interval(taken / new * (self._total - self._done))} left" if new > 0 else ""
            of_all = f"{so_far} of {self._number(self._total)} {self._unit}{'' if self._total == 1 else 's'}"
            said = f"{of_all} ({share:.0%}) in {time_taken}{left if share < 1 else ''}"
        print(f"{self._description}: {said}", file=sys.stderr, flush=True)

    def _after(self, done: float) -> float:
        """How much has to be done for the next line that no time calls for."""
        return done + _SHARE * self._total if self._total else math.inf

    def _number(self, value: float) -> str:
        return tqdm.format_sizeof(value) if self._scale else f"{value:,.0f}"
