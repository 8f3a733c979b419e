"""Several commands in one process, which loads its libraries once.

    python -m llava_mocle.cli.several eval ... --then eval ...

The words behind each `--then` are those of another `llava-mocle` command. The first that fails ends it, with its exit
code.
"""

import sys
from collections.abc import Sequence

from llava_mocle.cli.main import main

THEN = "--then"


def run_several(words: Sequence[str]) -> int:
    """Run one command after the other; returns the exit code of the first that fails, or 0."""
    left = list(words)
    while left:
        end = left.index(THEN) if THEN in left else len(left)
        command, left = left[:end], left[end + 1 :]
        if code := main(command):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(run_several(sys.argv[1:]))
