"""The line in which answers wait for the thread that owns the model."""

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llava_mocle.serving.answer import Answer


class Line:
    """First come, first served; any thread may add to it."""

    def __init__(self) -> None:
        self._waiting: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, *answers: "Answer", front: bool = False) -> None:
        """Put answers at the end, or at the front."""
        with self._changed:
            if front:
                self._waiting.extendleft(reversed(answers))
            else:
                self._waiting.extend(answers)
            self._changed.notify_all()

    def close(self) -> None:
        """Let `take` return nothing from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, most: int, patience: float) -> "list[Answer]":
        """The next answers to be worked out together; none once the line is closed.

        Waits until there is one, and then for others that come at the same time. An answer that has to be worked out
        alone comes alone.

        Args:
            most: how many at most.
            patience: seconds to wait for others.
        """
        with self._changed:
            while not self._closed:
                if not self._somebody():
                    self._changed.wait()
                    continue
                until = time.monotonic() + patience
                while not self._closed and len(self._waiting) < most and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                if self._somebody():  # who was there may have gone meanwhile
                    break
            if self._closed:
                return []
            taken: list[Answer] = []
            while self._waiting and len(taken) < most:
                if self._waiting[0].alone and taken:
                    break
                taken.append(self._waiting.popleft())
                if taken[0].alone:
                    break
            return taken

    def _somebody(self) -> bool:
        """Drop those that nobody waits for any more; returns whether others are left."""
        if any(answer.cancelled for answer in self._waiting):
            self._waiting = deque(answer for answer in self._waiting if not answer.cancelled)
        return bool(self._waiting)
