"""Ctrl-C ends a command with one line, and no traceback."""

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from llava_mocle.io.exit_file import leave_exit_code

T = TypeVar("T")

# 128 + SIGINT, as a shell reports it.
INTERRUPTED = 130


def until_ctrl_c(function: Callable[[], T], kept: str = "") -> T | int:
    """Call `function`; if Ctrl-C comes first, say so in one line on standard error and return 130.

    Args:
        kept: what is kept of the work, for that line.
    """
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    # Neither where a shell has this process ignore Ctrl-C, nor in a thread, nor over somebody else's handler.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        before = signal.signal(signal.SIGINT, note) if ours else None
    except ValueError:
        before = None
    try:
        return function()
    except KeyboardInterrupt:
        pass
    except Exception:  # a library may turn the interruption into an error of its own
        if not came:
            raise
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    print("interrupted by Ctrl-C" + (f": {kept}" if kept else ""), file=sys.stderr)
    leave_exit_code(INTERRUPTED)
    return INTERRUPTED
