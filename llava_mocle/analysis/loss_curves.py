"""Training loss and held-out loss per domain, of one run or of several side by side."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.analysis.style import LINE_STYLES, PALETTE, new_figure, save_figure, save_table, styled
from llava_mocle.errors import DataError

History = Sequence[Mapping[str, Any]]
_DOMAIN_PREFIX = "eval_loss_"
_CLUSTER_PREFIX = "eval_loss_cluster_"


def read_log_history(source: str | os.PathLike[str] | History) -> list[Mapping[str, Any]]:
    """The `log_history` of a trainer_state.json, or of the furthest one in a run folder; a list passes through.

    Raises:
        DataError: there is no such file, or it isn't a trainer state.
    """
    if not isinstance(source, (str, os.PathLike)):
        return list(source)
    path = Path(source)
    if not path.is_dir():
        return _read_state(path)["log_history"]
    found = [
        state
        for state in (path / "trainer_state.json", *path.glob("checkpoint-*/trainer_state.json"))
        if state.is_file()
    ]
    if not found:
        raise DataError(f"{path}: holds no trainer_state.json; give a run's output folder, or the file itself.")
    states = [_read_state(file) for file in found]
    return max(states, key=lambda state: state.get("global_step", 0))["log_history"]


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(state["log_history"], list):
            return state
        reason = "its 'log_history' is not a list"
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        reason = repr(error)
    raise DataError(f"{path}: not a trainer_state.json with a 'log_history': {reason}.")


def collect_losses(history: History) -> dict[str, list[tuple[int, float]]]:
    """Series -> [(step, loss)]: `train`, `eval` and one per domain (`eval/<domain>`); clusters are left out."""
    series: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        step = entry.get("step")
        if step is None:
            continue
        for key, value in entry.items():
            name = _series_name(key)
            if name is not None and isinstance(value, (int, float)):
                series.setdefault(name, []).append((int(step), float(value)))
    return series


@styled
def plot_loss_curves(
    runs: Mapping[str, str | os.PathLike[str] | History], path: str | os.PathLike[str], smoothing: float = 0.6
) -> Path:
    """Draw training loss (left) and held-out loss per domain (right, where it was logged).

    Args:
        runs: name of the run -> run folder, trainer_state.json or log history.
        smoothing: weight of the past in the exponential mean drawn over the raw training loss.

    SVG, CSV (run, series, step, loss, unsmoothed) and caption lie beside it.
    """
    losses = {name: collect_losses(read_log_history(source)) for name, source in runs.items()}
    save_table(
        path,
        ("run", "series", "step", "loss"),
        (
            (run, name, step, f"{loss:.6g}")
            for run, series in losses.items()
            for name, points in series.items()
            for step, loss in points
        ),
    )
    held_out = any(name != "train" for series in losses.values() for name in series)
    figure, panels = new_figure(10.5 if held_out else 6, 3.9, columns=2 if held_out else 1)
    for index, (run, series) in enumerate(losses.items()):
        _draw_training(panels[0], run, series.get("train", []), PALETTE[index % len(PALETTE)], smoothing)
    panels[0].set_title("Training loss")
    if held_out:
        _draw_held_out(panels[1], losses)
        panels[1].set_title("Held-out loss")
    for panel in panels:
        panel.set_xlabel("step")
        panel.set_ylabel("nats a supervised token")
        if panel.has_data():
            panel.legend(fontsize=9)
    last = max((step for series in losses.values() for points in series.values() for step, _ in points), default=0)
    caption = (
        f"Loss in nats a supervised token, up to step {last}, of {', '.join(losses)}. Training loss: raw values pale, "
        f"an exponential mean over them (the past weighs {smoothing:g})."
    )
    if held_out:
        caption += " Held-out loss: of rows that training never sees, by domain. What to see: a domain whose held-out "
        caption += "loss rises while training loss falls is overfitted, or loses to the others."
    return save_figure(figure, path, caption)


def _series_name(key: str) -> str | None:
    if key == "loss":
        return "train"
    if key == "eval_loss":
        return "eval"
    if key.startswith(_DOMAIN_PREFIX) and not key.startswith(_CLUSTER_PREFIX):
        return f"eval/{key.removeprefix(_DOMAIN_PREFIX)}"
    return None


def _draw_training(axes: Any, run: str, points: Sequence[tuple[int, float]], color: str, smoothing: float) -> None:
    if not points:
        return
    steps, values = zip(*points, strict=True)
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=1)
    axes.plot(steps, _exponential_mean(values, smoothing), color=color, linewidth=2, label=run)


def _draw_held_out(axes: Any, losses: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> None:
    names = list(dict.fromkeys(name for series in losses.values() for name in series if name != "train"))
    domains = [name for name in names if name != "eval"] or names
    for run_index, (run, series) in enumerate(losses.items()):
        for index, name in enumerate(domains):
            if name not in series:
                continue
            steps, values = zip(*series[name], strict=True)
            label = name.removeprefix("eval/") + (f" ({run})" if len(losses) > 1 else "")
            axes.plot(
                steps,
                values,
                marker="o",
                markersize=4,
                linewidth=1.8,
                color=PALETTE[index % len(PALETTE)],
                linestyle=LINE_STYLES[run_index % len(LINE_STYLES)],
                label=label,
            )


def _exponential_mean(values: Sequence[float], smoothing: float) -> list[float]:
    """Exponential mean without the start's bias towards zero."""
    mean, weight, result = 0.0, 0.0, []
    for value in values:
        mean = smoothing * mean + (1 - smoothing) * value
        weight = smoothing * weight + (1 - smoothing)
        result.append(mean / weight)
    return result
