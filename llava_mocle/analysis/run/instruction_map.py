"""t-SNE of instructions: which datasets ask alike (the paper's Figure 4)."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patheffects import withStroke

from llava_mocle.analysis.style import MARKERS, PALETTE, new_figure, save_figure, save_table, styled
from llava_mocle.errors import DataError

# t-SNE's usual perplexity; fewer points take a third of their number.
_PERPLEXITY = 30
_FEWEST = 4
_MOST_CLUSTERS = len(MARKERS)


@dataclass(frozen=True)
class Point:
    """An instruction on the map.

    Attributes:
        dataset: that it was drawn from.
        text: the instruction.
        kind: what its marker says: its cluster, or the category of its dataset.
    """

    dataset: str
    text: str
    kind: str


def draw_instructions(instructions: Mapping[str, Mapping[str, int]], number: int, seed: int) -> dict[str, list[str]]:
    """Dataset -> up to `number` of its distinct instructions, drawn by chance, in the order of the texts.

    Args:
        instructions: dataset -> distinct instruction -> rows that have it.
    """
    drawn = {}
    for place, (name, counts) in enumerate(instructions.items()):
        texts = sorted(counts)
        chosen = np.random.default_rng([seed, place]).permutation(len(texts))[:number]
        drawn[name] = [texts[index] for index in np.sort(chosen)]
    return drawn


def embed_in_plane(embeddings: np.ndarray, seed: int) -> np.ndarray:
    """(N, 2): scikit-learn's t-SNE of embeddings (N, D), started from their principal components.

    Raises:
        DataError: fewer than 4 points.
    """
    from sklearn.manifold import TSNE

    if len(embeddings) < _FEWEST:
        raise DataError(f"a t-SNE needs at least {_FEWEST} distinct instructions; the run's datasets have fewer")
    perplexity = min(_PERPLEXITY, (len(embeddings) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(embeddings))


def kinds_of(
    datasets: Sequence[str], clusters: Sequence[int], num_clusters: int, categories: Mapping[str, str]
) -> list[str]:
    """What each point's marker says: its dataset's category if one is given, else its cluster.

    Above 12 clusters there are not enough markers, and every point gets the same.
    """
    if categories:
        return [categories.get(name, "other") for name in datasets]
    if num_clusters > _MOST_CLUSTERS:
        return ["instruction"] * len(datasets)
    return [f"cluster {cluster}" for cluster in clusters]


@styled
def plot_instruction_map(
    points: Sequence[Point], places: np.ndarray, path: str | os.PathLike[str], clusters: Sequence[int]
) -> Path:
    """Draw the map: colour says the dataset, the marker the kind.

    Args:
        points: N instructions.
        places: (N, 2).
        clusters: (N,) for the CSV.
    """
    save_table(
        path,
        ("dataset", "kind", "cluster", "x", "y", "instruction"),
        (
            (point.dataset, point.kind, cluster, f"{x:.4f}", f"{y:.4f}", point.text)
            for point, cluster, (x, y) in zip(points, clusters, places.tolist(), strict=True)
        ),
    )
    datasets = list(dict.fromkeys(point.dataset for point in points))
    kinds = sorted({point.kind for point in points}, key=lambda kind: (len(kind), kind))
    figure, (axes,) = new_figure(8.6, 5.8)
    _draw_points(axes, points, places, datasets, kinds)
    _name_groups(axes, points, places, datasets)
    axes.margins(y=0.09)
    axes.set_title("Instructions of the datasets")
    axes.set_xlabel("t-SNE 1 (no unit)")
    axes.set_ylabel("t-SNE 2 (no unit)")
    axes.set_xticks([])
    axes.set_yticks([])
    figure.legend(loc="outside right upper", fontsize=9)
    marker = "the marker says the " + ("cluster" if kinds[0].startswith("cluster ") else "task category")
    caption = (
        f"t-SNE of the embeddings of {len(points)} distinct instructions of {len(datasets)} datasets. Colour says the "
        f"dataset{'; ' + marker if len(kinds) > 1 else ''}. What to see: instructions that lie together ask alike. "
        "Datasets that mix will share clusters, and so experts; a dataset in several places holds several tasks. "
        "Distances between far groups mean nothing in a t-SNE."
    )
    return save_figure(figure, path, caption)


def _draw_points(
    axes: Any, points: Sequence[Point], places: np.ndarray, datasets: Sequence[str], kinds: Sequence[str]
) -> None:
    """The points, and what stands for them in the legend."""
    for number, name in enumerate(datasets):
        color, hollow = PALETTE[number % len(PALETTE)], number >= len(PALETTE)
        for shape, kind in enumerate(kinds):
            own = [at for at, point in enumerate(points) if (point.dataset, point.kind) == (name, kind)]
            axes.scatter(
                places[own, 0], places[own, 1], s=34, marker=MARKERS[shape % len(MARKERS)], alpha=0.85,
                facecolors="none" if hollow else color, edgecolors=color if hollow else "white",
                linewidths=1.2 if hollow else 0.4,
            )  # fmt: skip
    for number, name in enumerate(datasets):
        color, hollow = PALETTE[number % len(PALETTE)], number >= len(PALETTE)
        size = sum(point.dataset == name for point in points)
        axes.scatter(
            [], [], s=44, marker="o", label=f"{name} (n = {size})", facecolors="none" if hollow else color,
            edgecolors=color,
        )  # fmt: skip
    if len(kinds) > 1:
        for shape, kind in enumerate(kinds):
            axes.scatter([], [], s=40, marker=MARKERS[shape % len(MARKERS)], color="#5b6675", label=kind)


def _name_groups(axes: Any, points: Sequence[Point], places: np.ndarray, datasets: Sequence[str]) -> None:
    """Each dataset's name at its topmost point, for a reader without colours."""
    for name in datasets:
        group = places[[point.dataset == name for point in points]]
        x, y = group[group[:, 1].argmax()]
        halo = [withStroke(linewidth=3, foreground="white")]
        axes.annotate(
            name, (x, y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=10, path_effects=halo
        )
