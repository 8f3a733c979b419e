"""Expert use over steps, from a log written by hand."""

import csv

import pytest

from llava_mocle.analysis.run.expert_use import collect_use, plot_expert_use
from llava_mocle.errors import DataError

HISTORY = [
    {"step": 1, "loss": 3.0, "routing/overturned": 0.6, "routing/up/gate": 0.4, "routing/up/universal": 0.6,
     "routing/up/expert_0": 0.7, "routing/up/expert_1": 0.3},
    {"step": 2, "eval_loss": 2.0},
    {"step": 2, "loss": 2.0, "routing/overturned": 0.5, "routing/up/gate": 0.5, "routing/up/universal": 0.5,
     "routing/up/expert_0": 0.2, "routing/up/expert_1": 0.8},
]  # fmt: skip


def test_series():
    assert collect_use(HISTORY) == {
        "": {"overturned": [(1, 0.6), (2, 0.5)]},
        "up": {
            "gate": [(1, 0.4), (2, 0.5)],
            "universal": [(1, 0.6), (2, 0.5)],
            "expert_0": [(1, 0.7), (2, 0.2)],
            "expert_1": [(1, 0.3), (2, 0.8)],
        },
    }


def test_figure(tmp_path):
    path = plot_expert_use(HISTORY, tmp_path / "use.png")
    with open(path.with_suffix(".csv"), newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert ("all", "overturned", "2", "0.5") in rows
    assert ("up", "expert_1", "2", "0.8") in rows
    assert len(rows) == 10
    assert "2 log lines up to step 2" in path.with_suffix(".txt").read_text()


def test_a_log_without_routing_is_refused(tmp_path):
    with pytest.raises(DataError, match="only runs with gates log"):
        plot_expert_use([{"step": 1, "loss": 2.0}], tmp_path / "use.png")
    assert list(tmp_path.iterdir()) == []
