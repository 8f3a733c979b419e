"""Paths as people write them: `~` is their home folder, and one that cannot be looked up is a missing file."""

import os
import stat


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
