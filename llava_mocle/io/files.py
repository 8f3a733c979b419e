"""Writing files: they appear whole or not at all, and other users can read them. And the checksum of one."""

import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def written_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write instead of `path`, in the same folder. It replaces `path` when the block ends without an error.

    The folder is made where it is missing. A block that fails leaves `path` as it was, and nothing beside it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        make_readable(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_readable(path: str | os.PathLike[str]) -> None:
    """Give a file, or a folder and every file in it, the modes that the umask allows.

    safetensors and `tempfile` make files that only their owner may read, so a colleague could not load a model.
    """
    path = Path(path)
    umask = os.umask(0)
    os.umask(umask)
    for place in [path, *path.rglob("*")] if path.is_dir() else [path]:
        wanted = (0o777 if place.is_dir() else 0o666) & ~umask
        mode = place.stat().st_mode & 0o777
        if mode | wanted != mode:
            place.chmod(mode | wanted)


def lock(descriptor: int, path: str | os.PathLike[str]) -> bool:
    """Claim an open file, until the process closes it or ends; False where another process has it.

    On a filesystem without locks the claim is granted, with a warning.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.warning("%s: cannot be locked (%s); see to it that no other process writes it", path, error)
    return True


def wait_for_lock(descriptor: int) -> None:
    """Claim an open file as `lock` does, once the process that has it is done."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Append a whole line of UTF-8 to a file that other processes may append to at the same time.

    All who append through this function wait for each other. So a last line without its end was left by a process
    that was killed, and is removed first. On a filesystem without locks nothing is removed: the half line is ended,
    and stays. The folder is made where it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = line.encode() + b"\n"
    with open(path, "ab+", buffering=0) as file:  # "a": each write goes to what is the end by then
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # closing the file gives it up
            locked = True
        except OSError:
            locked = False
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) not in (b"", b"\n"):
            if locked:
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            else:
                data = b"\n" + data
        while data:  # a disk that gets full may take a part
            data = data[file.write(data) :]
