"""Folders that appear whole or not at all."""

import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llava_mocle.errors import CheckpointError, DataError
from llava_mocle.io.files import lock, make_readable, wait_for_lock
from llava_mocle.io.text import one_line


def is_new_or_empty(path: str | os.PathLike[str]) -> bool:
    """Whether a folder can be written there without touching anything: nothing is there, or an empty folder."""
    path = Path(path)
    return not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir()))


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder that results go to, unless it is there; call it before the work, not after.

    Raises:
        DataError: there can be no folder, or nobody may write into it.
    """
    reason = None
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    if reason is None and not os.access(path, os.W_OK | os.X_OK):
        reason = "permission denied"
    if reason is not None:
        raise DataError(f"{one_line(path)}: nothing can be written there ({reason}); choose another place (--output).")


def refuse_to_overwrite(path: str | os.PathLike[str]) -> None:
    """Raise where `new_folder` would; call it before the work, not after.

    Raises:
        CheckpointError: something is there, other than an empty folder; or nothing can be there.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{one_line(path)}: nothing can be written there ({reason}); choose another.") from error
    if not is_new_or_empty(path):
        raise CheckpointError(
            f"{path}: exists already and is not an empty folder; it is never overwritten. Choose another or remove it."
        )


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write into instead of `path`. It gets that name when the block ends without an error.

    A block that fails leaves nothing.

    Raises:
        CheckpointError: something is at `path` already, other than an empty folder.
    """
    refuse_to_overwrite(path)
    with folder_aside(path) as aside:
        yield aside
        make_readable(aside)
        os.replace(aside, path)


@contextmanager
def folder_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder beside `path`. The block fills it and must rename it; if it does not, the folder is removed.

    Its mode is for this user alone: call `make_readable` before the renaming.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


# The locks of `only_one` that threads of this process wait for before they come to that of the file.
_between_threads: dict[Path, threading.Lock] = {}


@contextmanager
def only_one(path: str | os.PathLike[str], program: str) -> Iterator[None]:
    """Inside the block nobody else that uses this function writes `path`. A second process waits, and says for whom.

    Threads of one process wait for each other silently. The lock between processes is a hidden file beside `path`,
    `.NAME.lock`, which stays; it ends with the process that holds it.

    Args:
        program: what waits and is waited for, for the message.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path.with_name(f".{path.name}.lock")
    with _between_threads.setdefault(place, threading.Lock()):
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not lock(descriptor, place):
                holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "unknown"
                print(f"another {program} ({holder}) is writing {path}: waiting for it", flush=True)
                wait_for_lock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"host {socket.gethostname()}, pid {os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove the unfinished folders of killed processes. Call it only where no other process writes `path` now."""
    path = Path(path)
    ours = re.compile(rf"\.{re.escape(path.name)}\.([^.]+\.tmp|unfinished)")
    for left in path.parent.glob(".*"):
        if ours.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True)
