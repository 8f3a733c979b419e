"""Sample instructions of every cluster: those nearest the centroid, and some drawn by chance (the paper's Table 16)."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_mocle.analysis.style import save_table
from llava_mocle.clustering.cluster_model import ClusterModel
from llava_mocle.io.files import write_text

NEAREST, RANDOM = "nearest", "random"
_MOST_TEXT = 200


@dataclass(frozen=True)
class ClusterExample:
    """An instruction of a cluster.

    Attributes:
        cluster: its number.
        how: "nearest" or "random".
        text: the instruction.
        rows: how many training rows have it (times `repeat` for those nearest).
        datasets: that have it; () where the rows are not here.
    """

    cluster: int
    how: str
    text: str
    rows: float
    datasets: tuple[str, ...]


def sample_examples(
    model: ClusterModel, instructions: Mapping[str, Mapping[str, int]], number: int, seed: int
) -> list[ClusterExample]:
    """Up to `number` instructions nearest each centroid, and as many drawn by chance, each row as likely as another.

    Args:
        instructions: dataset -> distinct instruction -> rows that have it; {}: nothing is drawn.

    Raises:
        AssetError: an instruction's cluster is not stored, and the encoder is not here.
    """
    owners: dict[str, list[str]] = {}
    rows: dict[str, int] = {}
    for dataset, counts in instructions.items():
        for text, count in counts.items():
            owners.setdefault(text, []).append(dataset)
            rows[text] = rows.get(text, 0) + count
    texts = sorted(rows)
    ids = model.assign(texts)[0] if texts else np.empty(0, dtype=np.int64)
    found = []
    for cluster in range(model.num_clusters):
        for item in model.nearest_examples(cluster, number):
            found.append(ClusterExample(cluster, NEAREST, item.text, item.count, tuple(owners.get(item.text, ()))))
        own = [texts[place] for place in np.flatnonzero(ids == cluster)]
        for text in _drawn(own, [rows[text] for text in own], number, np.random.default_rng([seed, cluster])):
            found.append(ClusterExample(cluster, RANDOM, text, rows[text], tuple(owners[text])))
    return found


def _drawn(texts: Sequence[str], rows: Sequence[int], number: int, generator: np.random.Generator) -> list[str]:
    if not texts:
        return []
    weights = np.array(rows, dtype=np.float64)
    chosen = generator.choice(len(texts), size=min(number, len(texts)), replace=False, p=weights / weights.sum())
    return [texts[place] for place in chosen]


def write_examples(examples: Sequence[ClusterExample], counts: np.ndarray, path: str | os.PathLike[str]) -> Path:
    """Write the examples as Markdown at `path`, and as CSV beside it.

    Args:
        counts: (K,) how many instructions each cluster has, as the cluster model counts them.
    """
    save_table(
        path,
        ("cluster", "how", "rows", "datasets", "instruction"),
        ((item.cluster, item.how, f"{item.rows:g}", " ".join(item.datasets), item.text) for item in examples),
    )
    total = max(counts.sum(), 1)
    lines = [
        "# Sample instructions of every cluster", "",
        f"{len(counts)} clusters of {counts.sum():,.0f} instructions. Nearest: to the centroid, so what the cluster is "
        "about. Random: rows drawn by chance, so what else is in it. A cluster whose random instructions have nothing "
        "in common with the nearest ones holds more than one task.",
    ]  # fmt: skip
    for cluster, count in enumerate(counts):
        lines += ["", f"## Cluster {cluster}: {count:,.0f} instructions ({100 * count / total:.0f} %)", ""]
        lines += ["| | rows | datasets | instruction |", "|---|---|---|---|"]
        for item in examples:
            if item.cluster == cluster:
                cells = (item.how, f"{item.rows:,.0f}", ", ".join(item.datasets), _cell(item.text))
                lines.append(f"| {' | '.join(cells)} |")
    write_text(path, "\n".join(lines) + "\n")
    return Path(path)


def _cell(text: str) -> str:
    text = " ⏎ ".join(text.split("\n")).replace("|", "\\|")
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"
