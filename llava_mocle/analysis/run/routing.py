"""Which experts each cluster uses, and how much is left to the universal one (after the paper's Figure 6)."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from llava_mocle.analysis.style import PALETTE, UNIVERSAL_COLOR, ink_on, new_figure, save_figure, save_table, styled
from llava_mocle.inference.explanation import RoutingSummary, summarize_routing


@styled
def plot_routing(
    gates: Any,
    path: str | os.PathLike[str],
    *,
    top_k: int = 1,
    universal: bool = True,
    gate_mode: str = "paper",
) -> Path:
    """Draw, a bar for each cluster, the experts chosen over the sites (left) and what the output is mixed of (right).

    Args:
        gates: (K, S, E) noise-free gate probabilities, as `MocleModel.clean_gates()` returns them.

    SVG, CSV and caption lie beside it. The CSV has columns cluster, expert, expert_share, mean_gate, weight; the
    universal expert's row has only a weight.
    """
    summary = summarize_routing(gates, top_k=top_k, universal=universal, gate_mode=gate_mode)
    save_table(path, ("cluster", "expert", "expert_share", "mean_gate", "weight"), _table(summary))
    num_clusters, num_experts = summary.mean_gates.shape
    figure, (shares, weights) = new_figure(10.5, 1.9 + 0.32 * num_clusters, columns=2, sharey=True)
    _stack(shares, [summary.expert_share[:, expert] for expert in range(num_experts)])
    shares.set_title("Expert chosen")
    shares.set_xlabel(f"share of {summary.num_sites} sites")
    shares.set_ylabel("cluster")
    shares.set_yticks(range(num_clusters), [str(cluster) for cluster in range(num_clusters)])
    shares.invert_yaxis()
    parts = [summary.applied_weight[:, expert] for expert in range(num_experts)]
    if summary.universal_weight is not None:
        parts.append(summary.universal_weight)
    _stack(weights, parts, universal_last=summary.universal_weight is not None)
    weights.set_title("Weight in the output")
    weights.set_xlabel("mean over sites")
    handles, labels = weights.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), fontsize=9)
    caption = (
        f"Cluster x expert, over {summary.num_sites} sites, {num_clusters} clusters and {num_experts} experts, without "
        "noise. Parts stand in the order of the legend. Left: at which share of the sites an expert is a cluster's "
        "strongest. Right: the mean weight with which an expert enters the output. What to see: a long bar of one "
        "expert on the left only means that its number was drawn often, as experts of two sites have nothing in "
        "common; on the right, what is left to the universal expert is what the gates are not sure of."
    )
    return save_figure(figure, path, caption)


def _stack(axes: Any, parts: list[np.ndarray], universal_last: bool = False) -> None:
    """Horizontal stacked bars; `parts` are (K,) each."""
    left = np.zeros_like(parts[0])
    for index, part in enumerate(parts):
        last = universal_last and index == len(parts) - 1
        color = UNIVERSAL_COLOR if last else PALETTE[index % len(PALETTE)]
        label = "universal" if last else f"expert {index}"
        axes.barh(range(len(part)), part, left=left, color=color, label=label, edgecolor="white", height=0.75)
        for cluster, (start, width) in enumerate(zip(left, part, strict=True)):
            if width >= 0.12:
                where = (start + width / 2, cluster)
                axes.text(*where, f"{100 * width:.0f} %", ha="center", va="center", fontsize=8.5, color=ink_on(color))
        left = left + part
    axes.set_xlim(0, max(1.0, float(left.max())))
    axes.grid(axis="y", visible=False)


def _table(summary: RoutingSummary) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for cluster in range(summary.mean_gates.shape[0]):
        for expert in range(summary.mean_gates.shape[1]):
            numbers = (summary.expert_share, summary.mean_gates, summary.applied_weight)
            rows.append((cluster, expert, *(f"{values[cluster, expert]:.6f}" for values in numbers)))
        if summary.universal_weight is not None:
            rows.append((cluster, "universal", "", "", f"{summary.universal_weight[cluster]:.6f}"))
    return rows
