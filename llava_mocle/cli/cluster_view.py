"""What `llava-mocle cluster` prints: sizes, cluster x dataset table, nearest instructions."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from llava_mocle.clustering import cluster_files
from llava_mocle.clustering.assign import count_by_dataset, read_table
from llava_mocle.clustering.cluster_model import ClusterModel
from llava_mocle.io.console import print_table, say, table_console

# More columns than this do not fit a terminal; then each cluster lists its largest datasets.
_MAX_DATASET_COLUMNS = 8
_MAX_TEXT = 160
# A cluster is called very small below so many instructions, or below this part of an even share.
_FEW, _FRACTION = 10, 50
_SHOWN = 5


def show(folder: Path, num_examples: int, assignments: Path | None = None) -> None:
    """Print the cluster model in `folder`, with up to `num_examples` instructions a cluster.

    `assignments` is its table, by default assignments.parquet in the folder.
    """
    model = ClusterModel.load(folder)
    console = table_console()
    _print_sizes(console, folder, model)
    _print_datasets(console, assignments or folder / cluster_files.ASSIGNMENTS_FILE)
    _print_examples(console, model, num_examples)


def _right(*names: str) -> list[Column]:
    return [Column(name, justify="right") for name in names]


def _print_sizes(console: Console, folder: Path, model: ClusterModel) -> None:
    config, fit = model.config, model.config.fit
    console.print(
        f"[bold]{escape(str(folder))}[/]  K={model.num_clusters}  D={model.dim}  fingerprint {model.fingerprint}",
        soft_wrap=True,
    )
    console.print(
        f"encoder {escape(config.encoder)} ({config.encoder_weight_hash[:12]}), turns {config.instruction_turns}, seed "
        f"{config.seed}, {config.n_init} restarts, inertia {fit.get('inertia', float('nan')):.6g}, "
        f"{fit.get('num_instructions', 0):,.0f} instructions ({fit.get('num_distinct', 0):,} distinct)",
        highlight=False,
        soft_wrap=True,
    )
    console.print("\nsizes (rows x how often training meets them)", highlight=False)
    table = Table(*_right("cluster", "instructions", "share"), "")
    total = model.counts.sum() or 1.0
    for cluster, count in enumerate(model.counts):
        share = count / total
        table.add_row(str(cluster), f"{count:,.0f}", f"{share:.1%}", "█" * round(30 * share))
    print_table(console, table)
    if remark := small_clusters(model.counts):
        say(console, remark)


def small_clusters(counts: np.ndarray) -> str | None:
    """A sentence on clusters that hold next to nothing, or None.

    That is fewer than ten instructions, or fewer than a fiftieth of an even share.

    Args:
        counts: (K,) instructions of each cluster, rows times how often training meets them.
    """
    limit = max(_FEW, counts.sum() / len(counts) / _FRACTION)
    small = [(cluster, count) for cluster, count in enumerate(counts) if count < limit]
    if not small or counts.sum() < _FEW * len(counts):  # of so few rows every cluster is small
        return None
    named = ", ".join(f"{cluster} ({count:,.0f})" for cluster, count in small[:_SHOWN])
    more = f" and {len(small) - _SHOWN} more" if len(small) > _SHOWN else ""
    return (
        f"very small: cluster{'s' if len(small) > 1 else ''} {named}{more}. Hardly any row trains the gates of such a "
        "cluster: look at its instructions below. If they are no task of their own, use a smaller K or another seed."
    )


def _print_datasets(console: Console, path: Path) -> None:
    if not path.is_file():
        console.print(f"no {escape(str(path))}, so no cluster x dataset table", soft_wrap=True)
        return
    names, counts = count_by_dataset(read_table(path))
    console.print("\nrows by cluster and dataset")
    if len(names) <= _MAX_DATASET_COLUMNS:
        table = Table(*_right("cluster", *names))
        for cluster, line in enumerate(counts):
            table.add_row(str(cluster), *(f"{count:,}" if count else "·" for count in line))
    else:
        table = Table(*_right("cluster"), "largest datasets")
        for cluster, line in enumerate(counts):
            largest = [index for index in (-line).argsort(kind="stable")[:5] if line[index]]
            table.add_row(str(cluster), ", ".join(f"{names[index]} {line[index]:,}" for index in largest))
    print_table(console, table)


def _print_examples(console: Console, model: ClusterModel, number: int) -> None:
    console.print("\ninstructions nearest each centre")
    table = Table(*_right("cluster", "distance", "times"), "instruction")
    for cluster in range(model.num_clusters):
        for rank, item in enumerate(model.nearest_examples(cluster, number)):
            text = item.text if len(item.text) <= _MAX_TEXT else item.text[: _MAX_TEXT - 1] + "…"
            label = str(cluster) if rank == 0 else ""
            table.add_row(label, f"{item.distance:.3f}", f"{item.count:,.0f}", Text(text.replace("\n", " ⏎ ")))
    print_table(console, table)
