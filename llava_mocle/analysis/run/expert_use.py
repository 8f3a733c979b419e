"""How the use of the experts changes while a run trains, from its log."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_mocle.analysis.loss_curves import History
from llava_mocle.analysis.style import LINE_STYLES, PALETTE, new_figure, save_figure, save_table, styled
from llava_mocle.errors import DataError

# As `RoutingLog` names them: routing/<linear>/<number>.
_KEY = re.compile(r"routing/(?P<group>.+)/(?P<name>gate|universal|expert_\d+)")
_OVERTURNED = "routing/overturned"
Series = dict[str, list[tuple[int, float]]]


def collect_use(history: History) -> dict[str, Series]:
    """Linear -> what was logged of it (`gate`, `universal`, `expert_0`...) -> [(step, value)].

    "" holds what was logged of all together: `overturned`.
    """
    found: dict[str, Series] = {}
    for entry in history:
        for key, value in entry.items():
            match = _KEY.fullmatch(key)
            if match is None and key != _OVERTURNED:
                continue
            group, name = (match["group"], match["name"]) if match else ("", "overturned")
            found.setdefault(group, {}).setdefault(name, []).append((int(entry["step"]), float(value)))
    return found


@styled
def plot_expert_use(history: History, path: str | os.PathLike[str]) -> Path:
    """Draw the share of samples of each expert over the steps, a panel for each kind of linear; and the gates.

    Args:
        history: what training logged.

    Raises:
        DataError: nothing of a routing was logged.
    """
    found = collect_use(history)
    groups = {name: series for name, series in found.items() if name}
    if not groups:
        raise DataError("the log holds nothing of a routing: only runs with gates log which experts they use")
    save_table(
        path,
        ("linear", "series", "step", "value"),
        (
            (group or "all", name, step, f"{value:.6g}")
            for group, series in found.items()
            for name, points in series.items()
            for step, value in points
        ),
    )
    figure, panels = new_figure(3.6 * (len(groups) + 1) + 0.6, 4.2, columns=len(groups) + 1)
    experts = max(sum(name.startswith("expert_") for name in series) for series in groups.values())
    for axes, (group, series) in zip(panels, groups.items(), strict=False):
        _draw_experts(axes, group, series)
    highest = max(axes.get_ylim()[1] for axes in panels[:-1])
    for axes in panels[:-1]:
        axes.set_ylim(0, highest)
    _draw_gates(panels[-1], groups, found.get("", {}))
    panels[0].set_ylabel("share of samples and sites")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=min(len(labels), 5), fontsize=9)
    steps = sorted({step for series in groups.values() for points in series.values() for step, _ in points})
    caption = (
        f"Expert use in training, {len(steps)} log lines up to step {steps[-1]}. Each panel but the last: the share of "
        f"samples and sites whose strongest expert is this one; dotted: {experts} experts used alike. Last: the mean "
        "weight of the chosen expert (gate) and of the universal one, and the share of choices that noise overturned. "
        "What to see: an expert whose line falls to 0 is lost; while noise overturns most choices, experts are trained "
        "on samples of all clusters."
    )
    return save_figure(figure, path, caption)


def _draw_experts(axes: Any, group: str, series: Series) -> None:
    names = sorted((name for name in series if name.startswith("expert_")), key=lambda name: int(name[7:]))
    for index, name in enumerate(names):
        steps, values = zip(*series[name], strict=True)
        style = {"color": PALETTE[index % len(PALETTE)], "linestyle": LINE_STYLES[index % len(LINE_STYLES)]}
        axes.plot(steps, values, linewidth=1.8, label=name.replace("_", " "), **style)
    axes.axhline(1 / len(names), color="black", linestyle=(0, (1, 2)), linewidth=1.2, label="used alike")
    axes.set_title(group)
    axes.set_xlabel("step")


def _draw_gates(axes: Any, groups: Mapping[str, Series], overall: Series) -> None:
    for row, name in enumerate(("gate", "universal")):
        for index, (group, series) in enumerate(groups.items()):
            if name in series:
                steps, values = zip(*series[name], strict=True)
                color, style = PALETTE[(0, 5)[row]], LINE_STYLES[index % len(LINE_STYLES)]
                axes.plot(steps, values, linewidth=1.8, color=color, linestyle=style, label=f"{name}, {group}")
    if "overturned" in overall:
        steps, values = zip(*overall["overturned"], strict=True)
        axes.plot(steps, values, linewidth=1.8, color="black", linestyle=(0, (1, 1)), label="overturned by noise")
    axes.set_ylim(0, 1.02)
    axes.set_title("Gates")
    axes.set_xlabel("step")
    axes.set_ylabel("mean weight, or share of choices")
    axes.legend(fontsize=8)
