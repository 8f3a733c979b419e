"""Which clusters each dataset's instructions fall into (the paper's Figure 5)."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from llava_mocle.analysis.run.share_heatmap import draw_shares, panel_width
from llava_mocle.analysis.style import new_figure, save_figure, save_table, styled
from llava_mocle.clustering.assign import count_by_dataset, read_table
from llava_mocle.errors import DataError


def count_assignments(assignments: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Dataset -> (K,) how many of its rows each cluster has, from an assignment table of `llava-mocle cluster`.

    Raises:
        DataError: no such file, or not an assignment table.
    """
    names, counts = count_by_dataset(read_table(Path(assignments)))
    return dict(zip(names, counts.T, strict=True))


@styled
def plot_cluster_heatmap(
    counts: Mapping[str, Sequence[int] | np.ndarray],
    path: str | os.PathLike[str],
    *,
    held_out: Mapping[str, Sequence[int] | np.ndarray] | None = None,
    counted: str = "rows",
) -> Path:
    """Draw dataset x cluster, each row as shares of its dataset: PNG, SVG, CSV and caption.

    Args:
        counts: dataset -> (K,) number of its rows in each cluster.
        held_out: the same of datasets that were not trained on, below a dotted line.
        counted: what is counted, for the caption.
    """
    both = dict(counts) | dict(held_out or {})
    names = list(both)
    if not names:
        raise DataError("No dataset to draw a heatmap of: the assignment table is empty.")
    table = np.stack([np.asarray(both[name], dtype=np.int64) for name in names])
    sizes = table.sum(axis=1)
    shares = table / np.maximum(sizes[:, None], 1)
    num_clusters = table.shape[1]
    save_table(
        path,
        ("dataset", "trained", "cluster", "count", "share"),
        (
            (name, int(name in counts), cluster, int(table[row, cluster]), f"{shares[row, cluster]:.6f}")
            for row, name in enumerate(names)
            for cluster in range(num_clusters)
        ),
    )
    figure, (axes,) = new_figure(2.9 + panel_width(num_clusters), 1.5 + 0.55 * len(names))
    labels = [f"{name} (n = {size:,})" for name, size in zip(names, sizes, strict=True)]
    image = draw_shares(axes, shares, labels, counts=table, most=float(shares.max(initial=0)), line_after=len(counts))
    axes.set_title("Where each dataset's instructions fall")
    axes.set_xlabel("cluster")
    figure.colorbar(image, ax=axes, label="share of the dataset", fraction=0.05, pad=0.02)
    caption = (
        f"Dataset x cluster, K = {num_clusters}. Each line shows which share of a dataset's {counted} each cluster has "
        f"(n = {sizes.sum():,} rows of {len(names)} datasets). Clusters are numbered by size, 0 the largest. What to "
        "see: datasets that share a dark column ask alike, and share experts there; a dataset that is spread over "
        "columns holds several kinds of instructions."
    )
    if held_out:
        caption += " Below the dotted line: datasets that the run was not trained on."
    return save_figure(figure, path, caption)
