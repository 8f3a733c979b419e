"""A process that works for the main one: it leaves signals to the main process, and ends when that one ends."""

import multiprocessing
import os
import signal
import threading

# What a scheduler sends to every process of a job, and Ctrl-C to every process of a terminal.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def follow_main() -> None:
    """Call this first in a worker process: from now on it ignores `SIGNALS`, and ends when the main process has ended.

    The main process finishes its step after a signal, and needs its workers for that.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_main, name="end with main", daemon=True).start()


def _end_with_main() -> None:
    # Watched by multiprocessing's handle of the main process. The parent's process id does not tell: the parent may be
    # a fork server, which lives until its last worker has gone.
    main = multiprocessing.parent_process()
    if main is not None:
        main.join()
        os._exit(1)
