"""The figure of a sweep over K: inertia, silhouette and paraphrase stability."""

import os
from pathlib import Path

from llava_mocle.analysis.style import PALETTE, new_figure, save_figure, save_table, styled
from llava_mocle.clustering.sweep import STEADY, Sweep, advise


@styled
def plot_sweep(found: Sweep, path: str | os.PathLike[str]) -> Path:
    """Draw three panels over K: PNG, SVG, CSV and caption."""
    points = found.points
    save_table(
        path,
        ("num_clusters", "inertia", "explained", "silhouette", "stability", "whole", "smallest"),
        ((point.num_clusters, *(f"{value:.6g}" for value in list(vars(point).values())[1:])) for point in points),
    )
    numbers = [point.num_clusters for point in points]
    figure, panels = new_figure(10.5, 3.6, columns=3)
    drawn = (
        ("Inertia", "share explained by the clusters", [point.explained for point in points]),
        ("Silhouette", f"mean of {found.sampled:,} instructions", [point.silhouette for point in points]),
        ("Paraphrase stability", "share of paraphrases in one cluster", [point.stability for point in points]),
    )
    for place, (axes, (title, label, values)) in enumerate(zip(panels, drawn, strict=True)):
        axes.plot(numbers, values, color=PALETTE[0], marker="o", linewidth=2, label="mean share")
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.minorticks_off()
        axes.set_title(title)
        axes.set_xlabel("clusters K")
        axes.set_ylabel(label)
        if place != 1:
            axes.set_ylim(0, 1.03)
    whole = [point.whole for point in points]
    panels[2].plot(numbers, whole, color=PALETTE[5], marker="s", linestyle="--", linewidth=1.6, label="questions whole")
    panels[2].axhline(STEADY, color="black", linestyle=(0, (1, 2)), linewidth=1.2, label=f"{STEADY:g}")
    panels[2].legend(fontsize=8.5, loc="lower left")
    caption = (
        f"K-means with {len(points)} values of K on {found.distinct:,} distinct instructions. Inertia: the share of "
        "the squared distances that the clusters take away, 1 for points on their centroids. Silhouette: how much "
        "nearer an instruction is to its own cluster than to the next one, from -1 to 1, the mean over a sample. "
        f"Stability: of {found.questions:,} questions, each in all templates of its kind ({found.paraphrases:,} "
        "texts), the share of paraphrases in the question's largest cluster; dashed: the share of questions that stay "
        f"whole. What to see: the K where the silhouette is high and stability has not fallen yet. {advise(found)}"
    )
    return save_figure(figure, path, caption)
