"""What stands beside every result, so that it can be made again and compared: versions, command, what was asked."""

import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import llava_mocle
from llava_mocle.io.secrets import mask_command

_PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Version by package name; packages that are not installed are left out."""
    found = {"python": platform.python_version(), "llava_mocle": llava_mocle.__version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command line of this process, quoted so that a shell takes it back, with its secrets masked."""
    original = list(getattr(sys, "orig_argv", [])) or [sys.executable, *sys.argv]
    return shlex.join(mask_command(original))


def items_digest(items: Sequence[Any]) -> str:
    """Sixteen hexadecimal digits. Two runs that were asked the same have the same.

    Args:
        items: one JSON value an item, in order: its question's id, prompt and reference, and what else makes it.
    """
    return hashlib.sha256(json.dumps(items, ensure_ascii=False).encode("utf-8", "replace")).hexdigest()[:16]
