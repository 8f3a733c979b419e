"""The figure of the negative-transfer probe: a matrix of cosines, for all that is shared and for its parts."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llava_mocle.analysis.style import ink_on, new_figure, save_figure, save_table, styled
from llava_mocle.analysis.transfer.domain_gradients import LORA_A, LORA_B, PROJECTOR, DomainGradients
from llava_mocle.analysis.transfer.gradient_cosines import GradientCosines, gradient_cosines, verdicts

SHARED, LORA = "all that is shared", "LoRA"
# Dark at both ends and light in the middle; the numbers tell the sign where it is printed in grey.
_DIVERGING = "RdBu"


def cosines_by_part(gradients: DomainGradients, seed: int = 0) -> dict[str, GradientCosines]:
    """The cosines of everything that is shared together, of the LoRA and of the projector, as far as they differ."""
    found = gradients.products
    lora = [part for part in (LORA_A, LORA_B) if part in found]
    groups = {SHARED: list(found)}
    if lora and PROJECTOR in found:
        groups |= {LORA: lora, PROJECTOR: [PROJECTOR]}
    if len(lora) > 1:
        groups |= {LORA_A: [LORA_A], LORA_B: [LORA_B]}
    return {
        name: gradient_cosines(
            np.sum([found[part] for part in parts], axis=0), gradients.dataset_of, gradients.names, seed
        )
        for name, parts in groups.items()
    }


@styled
def plot_transfer(
    gradients: DomainGradients, path: str | os.PathLike[str], where: str, seed: int = 0
) -> tuple[Path, list[str]]:
    """Draw the matrices; PNG, SVG, CSV and caption.

    Args:
        where: the point of the training, in words.
        seed: of the bootstrap.

    Returns:
        the PNG, and a sentence for each pair of datasets, the least agreeing first.
    """
    found = cosines_by_part(gradients, seed)
    save_table(path, _COLUMNS, _rows(found))
    panels = {name: cosines for name, cosines in found.items() if name in (SHARED, LORA, PROJECTOR)}
    datasets = len(gradients.names)
    side = 1.1 + 0.95 * datasets
    figure, axes = new_figure(1.6 + side * len(panels), 1.5 + 0.72 * datasets, columns=len(panels), sharey=True)
    for panel, (name, cosines) in zip(axes, panels.items(), strict=True):
        image = _draw(panel, cosines)
        panel.set_title(name)
    figure.colorbar(image, ax=axes, label="cosine of gradients", fraction=0.04, pad=0.02)
    sentences = verdicts(found[SHARED])
    save_figure(figure, path, _caption(gradients, found[SHARED], where) + "\n" + "\n".join(sentences))
    return Path(path), sentences


_COLUMNS = (
    "part", "dataset", "other", "batches", "cosine", "low", "high", "of_what_noise_allows", "of_low", "of_high",
)  # fmt: skip


def _rows(found: Mapping[str, GradientCosines]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for part, cosines in found.items():
        for first, second in np.ndindex(*cosines.value.shape):
            if second < first:
                continue
            numbers = [cosines.value, cosines.low, cosines.high]
            if first != second:
                numbers += [cosines.allowed, cosines.allowed_low, cosines.allowed_high]
            shown = [f"{values[first, second]:.6f}" for values in numbers]
            names = (cosines.names[first], cosines.names[second])
            rows.append((part, *names, cosines.batches[first], *shown, *[""] * (6 - len(shown))))
    return rows


def _draw(axes: Any, cosines: GradientCosines) -> Any:
    axes.grid(False)
    axes.spines[:].set_visible(False)
    image = axes.imshow(cosines.value, cmap=_DIVERGING, vmin=-1, vmax=1, aspect="auto")
    names, places = cosines.names, range(len(cosines.names))
    axes.set_xticks(places, names, rotation=30 if max(map(len, names)) > 8 else 0, ha="center")
    axes.set_yticks(places, names)
    for (row, column), value in np.ndenumerate(cosines.value):
        if np.isnan(value):  # a dataset without images gives the projector none
            axes.text(column, row, "no\ngradient", ha="center", va="center", fontsize=8)
            continue
        ink = ink_on(image.cmap(image.norm(value)))
        text = f"{value:+.2f}\n{cosines.low[row, column]:+.2f} to {cosines.high[row, column]:+.2f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
        if row == column:
            frame = {"fill": False, "edgecolor": "black", "linestyle": ":", "linewidth": 1.6}
            axes.add_patch(_square(row, frame))
    return image


def _square(place: int, options: Mapping[str, Any]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((place - 0.46, place - 0.46), 0.92, 0.92, **options)


def _caption(gradients: DomainGradients, cosines: GradientCosines, where: str) -> str:
    sizes = ", ".join(f"{part} {size:,}" for part, size in gradients.sizes.items() if part not in gradients.silent)
    batches = ", ".join(f"{name} {number}" for name, number in zip(cosines.names, cosines.batches, strict=True))
    text = (
        f"Cosines between the datasets' gradients of what all of them train, at {where}. Batches of "
        f"{gradients.batch_size} rows: {batches}. Values: {sizes}. Each cell compares means over half of the batches; "
        "below it, its 95 % interval (bootstrap over batches). The framed diagonal compares two halves of one dataset: "
        "it is the noise ceiling. What to see: how far a cell lies below its two framed ones, not below 1. Negative: a "
        "step for one dataset undoes one for the other. No dropout, no gate noise."
    )
    if gradients.silent:
        text += (
            f" {' and '.join(gradients.silent)}: no gradient at all, and so left out; in a fresh LoRA only B gets one, "
            "as B is zero."
        )
    if gradients.sketched:
        text += " Inner products of random sketches of 4 million values: cosines are off by about 0.0005."
    return text
