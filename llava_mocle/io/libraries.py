"""What other libraries say while our commands run."""

import logging
import os
import sys

from llava_mocle.io.progress import shows_bars


def quiet_libraries() -> None:
    """Have libraries say only what concerns the user; call it when a command starts, before they are imported."""
    quiet_deepspeed()
    # Where the CPU has AVX512-BF16, it says at its import, which is PEFT's, that it found no faster kernels on the hub.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if shows_bars():
        return
    # A log file shall hold no bars: transformers and the hub read this when they are imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()


def quiet_deepspeed(quiet: bool = True) -> None:
    """Keep DeepSpeed's remarks on the machine out of a run that does not use it; errors are let through.

    accelerate imports DeepSpeed wherever it is installed, to see whether a model is one of its engines.
    """
    logger = logging.getLogger("DeepSpeed")
    if quiet:
        logger.addFilter(_is_error)
    else:
        logger.removeFilter(_is_error)


def quiet_bitsandbytes() -> None:
    """Keep back what it says in every 8-bit product: that the input is rounded to float16 first."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
