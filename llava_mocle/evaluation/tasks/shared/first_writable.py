"""Where images go that are unpacked from a table or a video."""

from collections.abc import Callable
from pathlib import Path

from llava_mocle.errors import DataError


def first_writable(write: Callable[[Path], None], *targets: Path) -> Path:
    """Write to the first of `targets` that can be written, and return it.

    Raises:
        DataError: none can; names their folders, each with the reason.
    """
    reasons = []
    for target in targets:
        try:
            write(target)
        except OSError as error:
            reasons.append(f"{target.parent} ({error.strerror or error})")
        else:
            return target
    raise DataError(
        f"{targets[0].name}: can't be unpacked into {', nor into '.join(reasons)}; make one of the folders writable, "
        "or point LLAVA_MOCLE_CACHE at one that is."
    )
