"""Numbers behind the paper's Figures 6 and 7 against tables worked by hand."""

import csv

import numpy as np
import pytest

from llava_mocle.analysis.run.dataset_routing import (
    expert_shares,
    plot_dataset_experts,
    plot_universal,
    universal_weights,
)
from llava_mocle.analysis.run.folder import DatasetClusters

# 2 clusters, 3 sites, 2 experts.
GATES = np.array([[[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]], [[0.2, 0.8], [0.3, 0.7], [1.0, 0.0]]])
SITES = ["layers.0.up", "layers.1.up", "layers.2.up"]
TRAINED = [DatasetClusters("a", np.array([3, 1])), DatasetClusters("b", np.array([0, 5]))]
HELD_OUT = DatasetClusters("c", np.array([2, 0]), trained=False, counted="rows")


def read(path):
    with open(path.with_suffix(".csv"), newline="") as file:
        return list(csv.DictReader(file))


def test_shares_by_hand():
    """Dataset a is 3/4 cluster 0 and 1/4 cluster 1. Cluster 0 takes experts 0, 1, 0 and cluster 1 takes 1, 1, 0."""
    found = expert_shares([*TRAINED, HELD_OUT], GATES)
    expected = [
        [[0.75, 0.25], [0, 1], [1, 0]],
        [[0, 1], [0, 1], [1, 0]],
        [[1, 0], [0, 1], [1, 0]],
    ]
    assert np.stack([one.shares for one in found]) == pytest.approx(np.array(expected))
    assert [(one.name, one.trained, one.rows) for one in found] == [("a", True, 4), ("b", True, 5), ("c", False, 2)]


def test_universal_weights_by_hand():
    """1 - G_max is 0.1, 0.4, 0.3 for cluster 0, and 0.2, 0.3, 0 for cluster 1."""
    a, b, c = universal_weights([*TRAINED, HELD_OUT], GATES)
    of_sites = [0.75 * 0.1 + 0.25 * 0.2, 0.75 * 0.4 + 0.25 * 0.3, 0.75 * 0.3]  # 0.125, 0.375, 0.225
    assert a.mean == pytest.approx(sum(of_sites) / 3)
    # Of three sorted numbers the quartiles lie halfway to the middle one.
    assert (a.low, a.high) == pytest.approx((0.175, 0.3))
    assert b.mean == pytest.approx(0.5 / 3)
    assert c.mean == pytest.approx(0.8 / 3)


def test_experts_figure(tmp_path):
    path = tmp_path / "experts.png"
    plot_dataset_experts(expert_shares([*TRAINED, HELD_OUT], GATES), SITES, 1, path, "training rows")
    rows = read(path)
    assert len(rows) == 3 * 4 * 2
    own = {(row["dataset"], row["site"], row["expert"]): float(row["share"]) for row in rows}
    assert own["a", "layers.0.up", "0"] == pytest.approx(0.75)
    assert own["a", "mean", "0"] == pytest.approx(1.75 / 3, abs=1e-6)
    assert {row["dataset"]: (row["trained"], row["rows"]) for row in rows} == {
        "a": ("1", "4"), "b": ("1", "5"), "c": ("0", "2"),
    }  # fmt: skip
    caption = path.with_suffix(".txt").read_text()
    assert "At 1 of 3 sites not all datasets have the same expert first" in caption
    assert "Left: at the site layers.1.up; right: the mean over all 3 sites" in caption
    assert "which share of a dataset's training rows has this expert as its strongest" in caption
    assert "Below the dotted line" in caption
    assert (tmp_path / "experts.svg").read_text().startswith("<?xml")
    plot_dataset_experts(expert_shares(TRAINED, GATES), SITES, 0, path, "training rows")
    assert "Below" not in path.with_suffix(".txt").read_text()


def test_universal_figure(tmp_path):
    path = plot_universal([*TRAINED, HELD_OUT], GATES, tmp_path / "universal.png")
    rows = {row["dataset"]: row for row in read(path)}
    assert float(rows["b"]["universal_weight"]) == pytest.approx(0.5 / 3, abs=1e-6)
    assert rows["c"]["trained"] == "0"
    assert "0.50, the weight under gates that prefer none of 2 experts" in path.with_suffix(".txt").read_text()
