"""Paths as people write them: `~` is their home folder, and one that cannot be looked up is a missing file."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from llava_mocle.errors import ConfigError
from llava_mocle.io.text import not_unicode, one_line

# Bytes of a name that becomes a file's: 255 are allowed, and endings such as ".part-0-of-8.jsonl" are added.
_NAME_BYTES = 200

# What is wrong with a path as it is on this machine, and not with the program that looks it up.
_STATES = (
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
)


def user_path(path: str | os.PathLike[str]) -> str:
    """A path with a leading `~` or `~name` replaced by the home folder; a relative path stays relative.

    Fit as the `type` of an argparse option.
    """
    return os.path.expanduser(path)


def why_missing(path: str | os.PathLike[str]) -> str | None:
    """Why nothing can be read at a path, such as "no such file or directory" or "file name too long"; None if it can.

    No path raises: neither one that the system refuses to look up, nor one that holds a NUL or half a surrogate pair.
    """
    try:
        os.stat(path)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except ValueError as error:  # such as a NUL, or text that the file system's encoding cannot hold
        return str(error)
    return None


def why_no_file(path: str | os.PathLike[str]) -> str | None:
    """Why no file can be opened at a path: as `why_missing`, or because something else is there. None if one can."""
    if (reason := why_missing(path)) is not None:
        return reason
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        return "it is a folder"
    if not stat.S_ISREG(mode):  # a pipe or a device could be waited for without end
        return "it is no regular file"
    return None if os.access(path, os.R_OK) else "permission denied"


def why_no_file_name(name: object) -> str | None:
    """Why a name, such as a dataset's, cannot become a file's, ready for "the name ..."; None if it can.

    Spaces and other scripts are fine; slashes, control characters and a leading dot are not.
    """
    if not isinstance(name, str):
        return f"is {type(name).__name__}, expected text"
    if not name.strip():
        return "is empty"
    if (trouble := not_unicode(name)) is not None:
        return f"holds {trouble}"
    if (wrong := next((letter for letter in name if letter in "/\\" or not letter.isprintable()), None)) is not None:
        return f"holds {wrong!r}, which no file name should have"
    if name.startswith(".") or name != name.strip():
        return "begins with a dot, or begins or ends with a space"
    if len(name.encode()) > _NAME_BYTES:
        return f"has {len(name.encode())} bytes, and a file name has room for {_NAME_BYTES}"
    return None


def looked_for(path: str | os.PathLike[str]) -> str:
    """Where a relative path was looked for, ready to follow "no such file"; nothing for an absolute one."""
    return "" if os.path.isabs(path) else f" (looked for at {one_line(os.path.abspath(path))})"


@contextmanager
def unusable_paths_named() -> Iterator[None]:
    """Make a ConfigError of an OSError about a path that this machine cannot look up or write. Others pass.

    Path.exists and its like raise where a name is too long or a folder may not be entered.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _STATES or error.filename is None:
            raise
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{one_line(error.filename)}: {reason}; choose another path, or mend it") from error
