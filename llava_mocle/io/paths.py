"""Paths as people write them: `~` is their home folder, and one that cannot be looked up is a missing file."""

import os


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
