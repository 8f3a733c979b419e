"""The console that tables are printed on."""

import sys

from rich.console import Console

# Of a file or a pipe: wider than any table, so that a log holds whole names.
_UNBOUNDED = 10_000


def table_console(*, highlight: bool = True) -> Console:
    """Standard output; where it is no terminal, nothing is cut off, folded or wrapped."""
    console = Console(highlight=highlight)
    if not sys.stdout.isatty():
        console.width = _UNBOUNDED
    return console
