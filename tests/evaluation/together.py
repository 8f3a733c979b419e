"""Several processes that share questions out, as threads of this one."""

import threading
from collections.abc import Callable
from typing import Any

from llava_mocle.errors import UserError
from llava_mocle.evaluation.answering.together import Part


def run_together(count: int, work: Callable[[Part], Any]) -> list[Any]:
    """What `work(part)` returns, or the `UserError` that it raises, for every part."""
    board: list[str | None] = [None] * count
    barrier = threading.Barrier(count, timeout=30)
    found: list[Any] = [None] * count

    def start(index: int) -> None:
        def exchange(error: str | None) -> list[str]:
            board[index] = error
            barrier.wait()
            messages = [message for message in board if message]
            barrier.wait()  # nobody writes before all have read
            return messages

        try:
            found[index] = work(Part(index, count, joins=index == 0, exchange=exchange))
        except UserError as error:
            found[index] = error

    threads = [threading.Thread(target=start, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
