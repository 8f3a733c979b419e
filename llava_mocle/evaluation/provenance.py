"""What a result must carry so that it can be made again: versions and the exact command."""

import platform
import shlex
import sys
from importlib import metadata

import llava_mocle

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
    """The command line of this process, quoted so that a shell takes it back."""
    original = list(getattr(sys, "orig_argv", [])) or [sys.executable, *sys.argv]
    return shlex.join(original)
