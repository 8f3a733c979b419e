"""The figures of a comparison: every method's score in each domain, and curves over what the ablations change."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from llava_mocle.analysis.style import LINE_STYLES, MARKERS, PALETTE, new_figure, save_figure, save_table, styled
from llava_mocle.experiment.comparison import MEAN
from llava_mocle.experiment.methods import OURS

Result = Mapping[str, Any]
_OURS_COLOR, _SINGLE_COLOR, _LORA_COLOR, _OTHER_COLOR = PALETTE[0], PALETTE[2], PALETTE[1], "#B8BEC6"
_PANELS_A_ROW = 5
_TITLES = {"test": "test rows", "held_out": "held-out instructions", "validation": "validation rows"}


def plot_comparison(result: Result, folder: Path) -> list[Path]:
    """Draw every figure that the result has numbers for; PNG, SVG, CSV and caption of each.

    Args:
        result: what `experiment.comparison.compare` returns.

    Returns:
        The PNGs.
    """
    paths = []
    for split in _TITLES:
        found = result["splits"].get(split, {})
        if found.get("scores"):
            paths.append(plot_methods(result, split, folder / f"methods_{split}.png"))
        if found.get("ablations"):
            paths.append(plot_ablations(result, split, folder / f"ablations_{split}.png"))
    return paths


@styled
def plot_methods(result: Result, split: str, path: Path) -> Path:
    """Bars in the manner of the paper's Figure 1: a panel for each domain and for their mean, a bar for each method."""
    found = result["splits"][split]
    names, domains = list(found["scores"]), [*found["n"], MEAN]
    save_table(path, _COLUMNS, _rows(found, domains))
    figure, panels = new_figure(1.9 + 2.1 * len(domains), 1.3 + 0.34 * len(names), len(domains), sharey=True)
    for panel, domain in zip(panels, domains, strict=True):
        for place, name in enumerate(names):
            _draw_bar(panel, place, name, found["scores"][name]["domains"][domain], result)
        count = f" (n = {found['n'][domain]:,})" if domain != MEAN else " of the domains"
        panel.set_title(f"{domain}{count}", fontsize=10)
        panel.set_xlabel("exact match, %")
        panel.grid(axis="y", visible=False)
        panel.set_xlim(left=0)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    seeds = sorted({len(scores["seeds"]) for scores in found["scores"].values()})
    caption = (
        f"Scores on the {_TITLES[split]}: the mean over seeds, its 95 % interval over questions and seeds (line), and "
        f"each seed (dots); {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds a method. To see: "
        f"whether {result['single_domain']} (green) is above {result['baseline']} (orange), which is negative "
        f"transfer, and where {OURS} (blue) stands between them. Overlapping lines do not mean that two methods "
        "cannot be told apart: their difference is paired by question, and is in the report's tables."
    )
    return save_figure(figure, path, caption)


def _draw_bar(panel: Axes, place: int, name: str, of: Mapping[str, Any], result: Result) -> None:
    colors = {OURS: _OURS_COLOR, result["single_domain"]: _SINGLE_COLOR, result["baseline"]: _LORA_COLOR}
    value = 100 * of["value"]
    panel.barh(place, value, height=0.7, color=colors.get(name, _OTHER_COLOR))
    if of["interval"] is not None:
        panel.plot([100 * end for end in of["interval"]], [place, place], color="black", linewidth=1.4)
    if len(of["by_seed"]) > 1:
        panel.plot(
            [100 * score for score in of["by_seed"]], [place] * len(of["by_seed"]), linestyle="", marker="o",
            markersize=3.5, markerfacecolor="white", markeredgecolor="black", markeredgewidth=0.8,
        )  # fmt: skip


@styled
def plot_ablations(result: Result, split: str, path: Path) -> Path:
    """Curves in the manner of the paper's Figure 3: a panel for each ablation, MoCLE's score over what it changes.

    Values that are no numbers have no order, and no line joins them.
    """
    found = result["splits"][split]
    ablations, domains = found["ablations"], [*found["n"]]
    save_table(path, _ABLATION_COLUMNS, _ablation_rows(ablations))
    columns = min(len(ablations), _PANELS_A_ROW)
    lines = -(-len(ablations) // columns)
    figure, axes = new_figure(0.6 + 2.9 * columns, 0.6 + 2.8 * lines, columns, lines, sharey=True)
    panels, unused = axes[: len(ablations)], axes[len(ablations) :]
    for panel in unused:
        panel.remove()
    baseline = found["scores"].get(result["baseline"])
    for panel, (name, entries) in zip(panels, ablations.items(), strict=True):
        places = range(len(entries))
        joined = all(_is_number(entry["label"]) for entry in entries)
        for number, domain in enumerate(domains, start=1):
            panel.plot(
                places, _percents(entries, domain), color=PALETTE[number % len(PALETTE)], linewidth=1.2,
                linestyle=LINE_STYLES[number % len(LINE_STYLES)] if joined else "",
                marker=MARKERS[number % len(MARKERS)], markersize=4, label=domain,
            )  # fmt: skip
        panel.plot(
            places, _percents(entries, MEAN), color=_OURS_COLOR, linewidth=2.4, linestyle="-" if joined else "",
            marker="o", label="mean",
        )  # fmt: skip
        for place, entry in zip(places, entries, strict=True):
            seeds = entry["domains"][MEAN]["by_seed"]
            panel.plot([place] * len(seeds), [100 * score for score in seeds], "_", color=_OURS_COLOR, markersize=9)
        if baseline is not None:
            value = 100 * baseline["domains"][MEAN]["value"]
            panel.axhline(value, color="black", linestyle=":", linewidth=1.2, label=f"{result['baseline']}, mean")
        panel.set_xticks(places, [str(entry["label"]) for entry in entries])
        panel.set_xlim(-0.5, len(entries) - 0.5)
        panel.set_xlabel(name)
    for first in panels[::columns]:
        first.set_ylabel("exact match, %")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(domains) + 2, fontsize=9
    )
    seeds = sorted({len(entry["seeds"]) for entries in ablations.values() for entry in entries})
    counts = ", ".join(f"{domain} {count:,}" for domain, count in found["n"].items())
    caption = (
        f"{OURS} with one thing changed, on the {_TITLES[split]} ({counts} questions): the mean of the domains (thick) "
        f"with each seed's (dashes), and every domain; {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} "
        f"seeds a point. Dotted: {result['baseline']}. To see: where the thick line bends by more than its seeds lie "
        "apart; with so few seeds a smaller step says nothing."
    )
    return save_figure(figure, path, caption)


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _percents(entries: Sequence[Mapping[str, Any]], domain: str) -> list[float]:
    return [100 * entry["domains"][domain]["value"] for entry in entries]


_COLUMNS = ("method", "domain", "seeds", "score", "low", "high", "sd")
_ABLATION_COLUMNS = ("ablation", "label", "domain", "seeds", "score", "low", "high", "sd")


def _rows(found: Mapping[str, Any], domains: Sequence[str]) -> Iterator[list[Any]]:
    for name, scores in found["scores"].items():
        for domain in domains:
            yield [name, domain, *_numbers(scores, domain)]


def _ablation_rows(ablations: Mapping[str, Any]) -> Iterator[list[Any]]:
    for name, entries in ablations.items():
        for entry in entries:
            for domain in entry["domains"]:
                yield [name, entry["label"], domain, *_numbers(entry, domain)]


def _numbers(scores: Mapping[str, Any], domain: str) -> list[Any]:
    of = scores["domains"][domain]
    return [len(scores["seeds"]), of["value"], *(of["interval"] or ("", "")), "" if of["sd"] is None else of["sd"]]
