"""How sure the gates are at every depth: the strongest probability, and the entropy."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_mocle.analysis.run.folder import site_groups
from llava_mocle.analysis.style import LINE_STYLES, PALETTE, new_figure, save_figure, save_table, styled


@dataclass(frozen=True)
class SharpnessOfSites:
    """The gates at S sites, over K clusters.

    Attributes:
        strongest, lowest, highest: (S,) G_max: the mean over clusters, each weighted by its rows, and its range.
        entropy: (S,) the weighted mean of the gates' entropy over ln E: 0 for one sure expert, 1 for no opinion.
    """

    strongest: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    entropy: np.ndarray


def sharpness(gates: np.ndarray, weights: np.ndarray | None = None) -> SharpnessOfSites:
    """What the gates (K, S, E) look like at each site.

    Args:
        weights: (K,) how many rows each cluster has; None, or all zero: each cluster counts alike.
    """
    clusters, _, experts = gates.shape
    if weights is None or not np.sum(weights) > 0:
        weights = np.ones(clusters)
    share = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    strongest = gates.max(axis=-1)  # (K, S)
    entropy = -np.where(gates > 0, gates * np.log(np.where(gates > 0, gates, 1.0)), 0.0).sum(axis=-1)
    return SharpnessOfSites(
        strongest=share @ strongest,
        lowest=strongest.min(axis=0),
        highest=strongest.max(axis=0),
        entropy=share @ (entropy / np.log(experts)) if experts > 1 else np.zeros(gates.shape[1]),
    )


def depth_of(site: str, place: int) -> int:
    """The number of a site's layer, from its name (`model.layers.7.mlp.up_proj` -> 7); else its place."""
    numbers = [int(part) for part in site.split(".") if part.isdigit()]
    return numbers[-1] if numbers else place


@styled
def plot_gate_sharpness(
    gates: np.ndarray, sites: Sequence[str], path: str | os.PathLike[str], weights: np.ndarray | None = None
) -> Path:
    """Draw G_max (left) and entropy (right) by layer, a line for each kind of linear.

    Args:
        gates: (K, S, E) noise-free gate probabilities.
        sites: S names.
        weights: (K,) how many rows each cluster has.
    """
    clusters, number, experts = gates.shape
    found = sharpness(gates, weights)
    groups = site_groups(sites)
    layers = {name: [depth_of(sites[place], at) for at, place in enumerate(own)] for name, own in groups.items()}
    save_table(
        path,
        ("linear", "layer", "site", "strongest", "strongest_lowest", "strongest_highest", "entropy"),
        (
            (name, layer, sites[place], *(f"{values[place]:.6f}" for values in vars(found).values()))
            for name, own in groups.items()
            for layer, place in zip(layers[name], own, strict=True)
        ),
    )
    figure, (left, right) = new_figure(10.5, 4.0, columns=2)
    for index, (name, own) in enumerate(groups.items()):
        color, style = PALETTE[index % len(PALETTE)], LINE_STYLES[index % len(LINE_STYLES)]
        options = {"color": color, "linestyle": style, "linewidth": 2, "marker": "o", "markersize": 3}
        left.fill_between(layers[name], found.lowest[own], found.highest[own], color=color, alpha=0.15, linewidth=0)
        left.plot(layers[name], found.strongest[own], label=name, **options)
        right.plot(layers[name], found.entropy[own], **options)
    for axes, even in ((left, 1 / experts), (right, 1.0)):
        axes.axhline(even, color="black", linestyle=(0, (1, 2)), linewidth=1.2, label="no opinion")
        axes.set_ylim(0, 1.05)
        axes.set_xlabel("layer")
    left.set_title("Strongest gate")
    left.set_ylabel("probability G_max")
    right.set_title("Entropy of the gates")
    right.set_ylabel("share of ln E")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(groups) + 1, fontsize=9)
    caption = (
        f"Gate sharpness by depth, over {number} sites, {clusters} clusters and {experts} experts, without noise. "
        "Left: the probability of the strongest expert, the mean over clusters by their rows; the band spans the "
        "clusters. Right: the entropy of the gates as a share of ln E. Dotted: gates that prefer no expert. What to "
        "see: where the lines lie on the dotted one, the gates have learnt nothing there, and noise chooses the expert "
        "in training; at 1 (left) the universal expert has no weight."
    )
    return save_figure(figure, path, caption)
