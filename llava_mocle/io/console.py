"""The console that tables are printed on."""

import os
import sys

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

# Of a file or a pipe without COLUMNS: wider than any table, so that a log holds whole lines.
_UNBOUNDED = 10_000


def table_console(*, highlight: bool = True) -> Console:
    """Standard output, as wide as COLUMNS says, else as the terminal; a file or a pipe has no limit of its own."""
    console = Console(highlight=highlight)
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        console.width = _UNBOUNDED
    return console


def say(console: Console, *lines: str, style: str = "") -> None:
    """Print lines as they are: brackets are no markup, and a line is only wrapped by the terminal itself."""
    console.print(Text("\n".join(lines)), style=style, highlight=False, soft_wrap=True)


def print_table(console: Console, table: Table) -> None:
    """Print a table that fits the console, by wrapping cells between words.

    No word is broken or cut off, so that a file name can be copied: a table of long words gets wider than the console.
    Its title is a line of its own.
    """
    if table.title:
        style = table.title_style or "table.title"
        say(console, str(table.title), style=str(style))
        table.title = None
    unbounded = console.options.update(width=_UNBOUNDED)
    narrowest = 1  # the frame: a line at the left, and a line and two spaces a column
    for column in table.columns:
        cells = [column.header, *column.cells]
        sizes = [Measurement.get(console, unbounded, cell) for cell in cells]
        whole = max(size.maximum for size in sizes)
        column.min_width = whole if column.no_wrap else max(size.minimum for size in sizes)
        column.no_wrap = column.min_width == whole  # or rich would take as much from it as from sentences
        narrowest += column.min_width + 3
    if narrowest > console.width:
        table.width = narrowest
    console.print(table, crop=False)
