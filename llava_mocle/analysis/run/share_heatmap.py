"""One panel: a row for each dataset, dark where a large share of it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llava_mocle.analysis.style import SEQUENTIAL_MAP, ink_on

# More columns than this get no numbers in their cells, and not every column a label.
MOST_LABELLED = 16


def panel_width(columns: int) -> float:
    """Inches that the cells of a panel take."""
    return min(max(2.6, columns * (0.85 if columns <= MOST_LABELLED else 0.16)), 11.4)


def draw_shares(
    axes: Any,
    shares: np.ndarray,
    names: Sequence[str],
    *,
    counts: np.ndarray | None = None,
    most: float = 1.0,
    line_after: int | None = None,
) -> Any:
    """Draw shares (N, M) of N datasets over M columns, and give the image for a colour bar.

    Args:
        counts: (N, M), written below the shares.
        most: the share that is drawn darkest.
        line_after: a dotted line goes below so many rows; None or N: no line.
    """
    columns = shares.shape[1]
    axes.grid(False)
    image = axes.imshow(shares, aspect="auto", cmap=SEQUENTIAL_MAP, vmin=0, vmax=max(most, 1e-9))
    axes.set_yticks(range(len(names)), names)
    labelled = columns <= MOST_LABELLED
    axes.set_xticks(range(0, columns, 1 if labelled else max(1, columns // 16)))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if labelled:
        for (row, column), share in np.ndenumerate(shares):
            text = "0" if not share else "< 1 %" if share < 0.005 else f"{100 * share:.0f} %"
            if counts is not None and share:
                text += f"\n{int(counts[row, column]):,}"
            ink = ink_on(image.cmap(image.norm(share)))
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=ink)
    if line_after is not None and 0 < line_after < len(names):
        axes.axhline(line_after - 0.5, color="black", linestyle=":", linewidth=1.6)
    return image
