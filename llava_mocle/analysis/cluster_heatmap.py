"""Which clusters each dataset's instructions fall into (the paper's Figure 5)."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from llava_mocle.analysis.style import SEQUENTIAL_MAP, ink_on, new_figure, save_figure, save_table, styled
from llava_mocle.clustering.assign import count_by_dataset, read_table
from llava_mocle.errors import DataError

_MOST_LABELLED = 16


def count_assignments(assignments: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Dataset -> (K,) how many of its rows each cluster has, from an assignment table of `llava-mocle cluster`.

    Raises:
        DataError: no such file, or not an assignment table.
    """
    names, counts = count_by_dataset(read_table(Path(assignments)))
    return dict(zip(names, counts.T, strict=True))


@styled
def plot_cluster_heatmap(counts: Mapping[str, Sequence[int] | np.ndarray], path: str | os.PathLike[str]) -> Path:
    """Draw dataset x cluster, each row as shares of its dataset: a PNG at `path`, its data as CSV beside.

    Args:
        counts: dataset -> (K,) number of its rows in each cluster.
    """
    names = list(counts)
    if not names:
        raise DataError("No dataset to draw a heatmap of: the assignment table is empty.")
    table = np.stack([np.asarray(counts[name], dtype=np.int64) for name in names])
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    num_clusters = table.shape[1]
    save_table(
        path,
        ("dataset", "cluster", "count", "share"),
        (
            (name, cluster, int(table[row, cluster]), f"{shares[row, cluster]:.6f}")
            for row, name in enumerate(names)
            for cluster in range(num_clusters)
        ),
    )
    labelled = num_clusters <= _MOST_LABELLED
    width = 2.6 + max(3.2, num_clusters * (0.95 if labelled else 0.16))
    figure, (axes,) = new_figure(min(width, 14), 1.4 + 0.55 * len(names))
    axes.grid(False)
    image = axes.imshow(shares, aspect="auto", cmap=SEQUENTIAL_MAP, vmin=0, vmax=max(float(shares.max()), 1e-9))
    axes.set_title("Where each dataset's instructions fall")
    axes.set_xlabel("cluster")
    axes.set_yticks(range(len(names)), names)
    step = 1 if labelled else max(1, num_clusters // 16)
    axes.set_xticks(range(0, num_clusters, step))
    axes.spines[:].set_visible(False)
    if labelled:
        for (row, cluster), count in np.ndenumerate(table):
            share = shares[row, cluster]
            text = f"{100 * share:.0f} %\n{count:,}" if count else "0"
            ink = ink_on(image.cmap(image.norm(share)))
            axes.text(cluster, row, text, ha="center", va="center", fontsize=9, color=ink)
    figure.colorbar(image, ax=axes, label="share of the dataset", fraction=0.05, pad=0.02)
    return save_figure(figure, path)
