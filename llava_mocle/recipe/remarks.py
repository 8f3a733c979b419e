"""What is said of a recipe while it is read."""

import logging
import os

logger = logging.getLogger(__name__)


def remark(text: str) -> None:
    """Log one line, once for all processes of a run."""
    if os.environ.get("RANK", "0") == "0":
        logger.warning(text)
