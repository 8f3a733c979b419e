"""How every figure looks and is saved."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from llava_mocle.io.files import write_text, written_aside

# Okabe and Ito's palette, told apart by readers of every kind of colour vision; grey for the universal expert.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
UNIVERSAL_COLOR = "#B8BEC6"
# Light to dark, of one hue: reads the same in grey.
SEQUENTIAL_MAP = "Blues"

_STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E8EB",
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 160,
    # An SVG of the same numbers has the same bytes.
    "svg.hashsalt": "llava_mocle",
}
# Lines that are told apart in grey too; the shapes of points likewise.
LINE_STYLES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)), (0, (3, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")


# Decorator: a function draws under our settings, and other figures of the process keep theirs. It goes around the whole
# function, because matplotlib reads its settings when an element is made.
styled = matplotlib.rc_context(_STYLE)


def new_figure(
    width: float, height: float, columns: int = 1, rows: int = 1, **options: Any
) -> tuple[Figure, list[Any]]:
    """A figure of panels side by side, row by row; width and height in inches."""
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False, **options)
    return figure, list(axes.flat)


def ink_on(color: Any) -> str:
    """Black or white, whichever reads better on `color`."""
    red, green, blue = matplotlib.colors.to_rgb(color)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def save_figure(figure: Figure, path: str | os.PathLike[str], caption: str = "") -> Path:
    """Write a PNG at `path`, the same as SVG beside it, and the caption as text; the figure is closed.

    Each file is written to a temporary name, then renamed.

    Args:
        path: ends with `.png`; the other files have its name with `.svg` and `.txt`.
        caption: what to see, how many things were counted, and in which unit; "" writes none.
    """
    target = Path(path)
    for kind, metadata in (("png", {}), ("svg", {"Date": None})):
        with written_aside(target.with_suffix(f".{kind}")) as aside:
            figure.savefig(aside, format=kind, facecolor="white", metadata=metadata)
    plt.close(figure)
    if caption:
        write_text(target.with_suffix(".txt"), caption + "\n")
    return target


def save_table(path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a CSV beside a picture: same name, `.csv`."""
    target = Path(path).with_suffix(".csv")
    with written_aside(target) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return target
