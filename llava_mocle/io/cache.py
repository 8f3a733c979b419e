"""The folder below which everything cached is kept."""

import os
from pathlib import Path


def cache_root() -> Path:
    """Return `$LLAVA_MOCLE_CACHE`, or else `llava_mocle` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`)."""
    if own := os.environ.get("LLAVA_MOCLE_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "llava_mocle"
