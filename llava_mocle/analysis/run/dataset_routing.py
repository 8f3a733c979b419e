"""Which experts each dataset reaches, and how much of it the universal expert takes (the paper's Figures 6 and 7)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_mocle.analysis.run.folder import DatasetClusters
from llava_mocle.analysis.run.share_heatmap import draw_shares, panel_width
from llava_mocle.analysis.style import PALETTE, new_figure, save_figure, save_table, styled
from llava_mocle.inference.explanation import summarize_routing

# Light, so that a black line on it is seen in grey too.
_BAR = PALETTE[4]
_NO_NOISE = "The gates are read without the noise that training adds to them."


@dataclass(frozen=True)
class DatasetExperts:
    """Which share of a dataset each expert gets.

    Attributes:
        name: of the dataset.
        trained: whether the run was trained on this dataset (held-in), or not (held-out).
        rows: how many rows were counted.
        shares: (S, E) float64, the share whose strongest expert at a site is this one.
    """

    name: str
    trained: bool
    rows: int
    shares: np.ndarray


def expert_shares(datasets: Sequence[DatasetClusters], gates: np.ndarray) -> list[DatasetExperts]:
    """The share of each dataset's rows whose strongest expert at a site is this one, from the gates of their clusters.

    Args:
        datasets: with K clusters.
        gates: (K, S, E) noise-free gate probabilities.
    """
    sites = range(gates.shape[1])
    chosen = np.stack([summarize_routing(gates[:, [site]]).expert_share for site in sites], axis=1)  # (K, S, E)
    return [
        DatasetExperts(one.name, one.trained, int(one.counts.sum()), np.tensordot(one.shares, chosen, axes=1))
        for one in datasets
    ]


def sites_apart(shares: np.ndarray) -> int:
    """The number of sites at which the datasets do not all have the same most frequent expert; shares (N, S, E)."""
    first = shares.argmax(axis=-1)
    return int((first != first[0]).any(axis=0).sum())


@dataclass(frozen=True)
class UniversalWeight:
    """The weight of the universal expert for one dataset: the mean over rows and sites, and the sites' quartiles."""

    dataset: DatasetClusters
    mean: float
    low: float
    high: float


def universal_weights(datasets: Sequence[DatasetClusters], gates: np.ndarray) -> list[UniversalWeight]:
    """The mean of 1 - G_max over a dataset's rows, at each site; of this the mean and the quartiles over the sites.

    Args:
        datasets: N datasets, with K clusters.
        gates: (K, S, E) noise-free gate probabilities.
    """
    left_over = 1 - gates.max(axis=-1)  # (K, S)
    found = []
    for dataset in datasets:
        of_sites = dataset.shares @ left_over
        low, high = np.percentile(of_sites, (25, 75))
        found.append(UniversalWeight(dataset, float(of_sites.mean()), float(low), float(high)))
    return found


def _label(name: str, rows: int) -> str:
    return f"{name} (n = {rows:,})"


@styled
def plot_dataset_experts(
    datasets: Sequence[DatasetExperts],
    sites: Sequence[str],
    site: int,
    path: str | os.PathLike[str],
    counted: str,
) -> Path:
    """Draw dataset x expert at one site, and averaged over all sites; the CSV has every site.

    Args:
        datasets: those that were trained on first.
        sites: S names.
        site: the place of the one that is shown.
        counted: what of a dataset the shares are of, in words, such as "training rows".
    """
    shares = np.stack([dataset.shares for dataset in datasets])  # (N, S, E)
    num_experts = shares.shape[-1]
    save_table(
        path,
        ("dataset", "trained", "rows", "site", "expert", "share"),
        (
            (dataset.name, int(dataset.trained), dataset.rows, name, expert, f"{share:.6f}")
            for dataset in datasets
            for name, of_site in zip((*sites, "mean"), (*dataset.shares, dataset.shares.mean(axis=0)), strict=True)
            for expert, share in enumerate(of_site)
        ),
    )
    width = 3.4 + 2 * max(panel_width(num_experts), 3.0)
    figure, panels = new_figure(width, 1.7 + 0.5 * len(datasets), columns=2, sharey=True)
    titles = (sites[site], f"mean over {len(sites)} sites")
    trained = sum(dataset.trained for dataset in datasets)
    labels = [_label(dataset.name, dataset.rows) for dataset in datasets]
    for axes, title, values in zip(panels, titles, (shares[:, site], shares.mean(axis=1)), strict=True):
        image = draw_shares(axes, values, labels, line_after=trained)
        axes.set_title(_shortened(title), fontsize=10)
        axes.set_xlabel("expert")
    figure.suptitle("Expert chosen for each dataset", x=0.01, ha="left", fontweight="bold", fontsize=12)
    figure.colorbar(image, ax=panels, label="share of the dataset", fraction=0.05, pad=0.02)
    caption = (
        f"Dataset x expert. Left: at the site {sites[site]}; right: the mean over all {len(sites)} sites. Each line "
        f"shows which share of a dataset's {counted} has this expert as its strongest. {_NO_NOISE} What to see: "
        "datasets with the same pattern on the left share an expert at this site, and datasets with different "
        "ones do not get into each other's way there. An expert's number means something within one site only, so the "
        f"mean over sites shows just whether experts are used evenly. At {sites_apart(shares)} of {len(sites)} sites "
        "not all datasets have the same expert first."
    )
    if trained < len(datasets):
        caption += " Below the dotted line: held-out datasets, which the run was not trained on."
    return save_figure(figure, path, caption)


def _shortened(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"…{name[-most + 1 :]}"


@styled
def plot_universal(datasets: Sequence[DatasetClusters], gates: np.ndarray, path: str | os.PathLike[str]) -> Path:
    """Draw the mean weight of the universal expert for each dataset, a bar each.

    Args:
        datasets: those that were trained on first.
        gates: (K, S, E) noise-free gate probabilities.
    """
    found = universal_weights(datasets, gates)
    save_table(
        path,
        ("dataset", "trained", "rows", "universal_weight", "quartile_1", "quartile_3"),
        (
            (
                item.dataset.name, int(item.dataset.trained), int(item.dataset.counts.sum()),
                f"{item.mean:.6f}", f"{item.low:.6f}", f"{item.high:.6f}",
            )
            for item in found
        ),
    )  # fmt: skip
    num_experts = gates.shape[-1]
    most = 1 - 1 / num_experts
    figure, (axes,) = new_figure(7.4, 1.6 + 0.42 * len(found))
    places = range(len(found))
    for place, item in enumerate(found):
        style = {"color": _BAR} if item.dataset.trained else {"color": "white", "edgecolor": _BAR}
        hatch = None if item.dataset.trained else "////"
        axes.barh(place, item.mean, height=0.68, hatch=hatch, **style)
        axes.plot((item.low, item.high), (place, place), color="black", linewidth=1.4, solid_capstyle="butt")
        axes.text(max(item.mean, item.high) + 0.012, place, f"{item.mean:.2f}", va="center", fontsize=9)
    axes.axvline(most, color="black", linestyle="--", linewidth=1)
    axes.annotate(
        "gates of no opinion", (most, -0.62), xytext=(-4, 0), textcoords="offset points", ha="right", va="center",
        fontsize=8.5, annotation_clip=False,
    )  # fmt: skip
    trained = sum(item.dataset.trained for item in found)
    if 0 < trained < len(found):
        axes.axhline(trained - 0.5, color="black", linestyle=":", linewidth=1.6)
    axes.set_yticks(places, [_label(dataset.name, int(dataset.counts.sum())) for dataset in datasets])
    axes.set_ylim(len(found) - 0.4, -0.85)
    axes.set_xlim(0, max(most * 1.06, *(item.high + 0.08 for item in found)))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("weight of the universal expert (mean of 1 − G_max)")
    axes.set_title("Universal expert by dataset")
    caption = (
        f"Weight of the universal expert: the mean of 1 - G_max over a dataset's {datasets[0].counted} and all "
        f"{gates.shape[1]} sites. The black line spans the middle half of the sites. "
        f"{_NO_NOISE} Dashed: {most:.2f}, the weight under gates that prefer none of {num_experts} experts. What to "
        "see: a high bar is a dataset whose experts know little of their own; a low bar is one whose experts decide."
    )
    if trained < len(found):
        caption += " Hatched, below the dotted line: held-out datasets, which the run was not trained on."
    return save_figure(figure, path, caption)
