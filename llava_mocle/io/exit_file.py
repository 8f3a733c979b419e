"""The exit code in a file, because launchers turn every exit code of their workers into 1."""

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

EXIT_FILE = "LLAVA_MOCLE_EXIT_FILE"


def leave_exit_code(code: int) -> None:
    """Write `code` to the file that the environment variable `EXIT_FILE` names; do nothing if it is not set."""
    path = os.environ.get(EXIT_FILE)
    if path:
        try:
            Path(path).write_text(f"{code}\n")
        except OSError as error:
            logger.warning("%s names %s, which cannot be written: %s", EXIT_FILE, path, error)
