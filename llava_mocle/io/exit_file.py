"""The file between a start script and the training that it starts, with launchers in between.

The training leaves its exit code there, because launchers turn every exit code of their workers into 1. The script
leaves a note before it passes Ctrl-C on, because launchers know one signal only.
"""

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

EXIT_FILE = "LLAVA_MOCLE_EXIT_FILE"
# What scripts/signals.sh writes before it sends SIGTERM because of Ctrl-C.
_CTRL_C = "Ctrl-C"


def leave_exit_code(code: int) -> None:
    """Write `code` to the file that the environment variable `EXIT_FILE` names; do nothing if it is not set."""
    path = os.environ.get(EXIT_FILE)
    if path:
        try:
            Path(path).write_text(f"{code}\n")
        except OSError as error:
            logger.warning("%s names %s, which cannot be written: %s", EXIT_FILE, path, error)


def is_ctrl_c() -> bool:
    """Whether the start script was stopped by Ctrl-C, so that this is what its SIGTERM means."""
    path = os.environ.get(EXIT_FILE)
    if not path:
        return False
    try:
        return Path(path).read_text().strip() == _CTRL_C
    except (OSError, ValueError):
        return False
