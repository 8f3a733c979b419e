"""Gate sharpness against sums worked by hand."""

import csv
import math

import numpy as np
import pytest

from llava_mocle.analysis.run.gate_sharpness import depth_of, plot_gate_sharpness, sharpness

# 2 clusters, 3 sites, 4 experts.
SURE, EVEN, HALF = [1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]
GATES = np.array([[SURE, EVEN, HALF], [EVEN, EVEN, SURE]], dtype=np.float64)


def test_by_hand():
    """Cluster 0 has three times the rows. Entropies: sure 0, even ln 4, half ln 2 = 0.5 ln 4."""
    found = sharpness(GATES, np.array([30, 10]))
    assert found.strongest == pytest.approx([0.75 + 0.25 * 0.25, 0.25, 0.75 * 0.5 + 0.25])
    assert found.entropy == pytest.approx([0.25, 1.0, 0.75 * math.log(2) / math.log(4)])
    assert found.lowest == pytest.approx([0.25, 0.25, 0.5])
    assert found.highest == pytest.approx([1.0, 0.25, 1.0])


def test_without_weights_clusters_count_alike():
    for weights in (None, np.zeros(2)):
        assert sharpness(GATES, weights).entropy == pytest.approx([0.5, 1.0, 0.25])


@pytest.mark.parametrize(
    ("site", "depth"), [("model.layers.7.mlp.up_proj", 7), ("blocks.1.experts.3.up", 3), ("head.up", 5)]
)
def test_depth(site, depth):
    assert depth_of(site, 5) == depth


def test_figure(tmp_path):
    sites = ["m.layers.0.up", "m.layers.0.down", "m.layers.1.up"]
    path = plot_gate_sharpness(GATES, sites, tmp_path / "gates.png", np.array([30, 10]))
    with open(path.with_suffix(".csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["linear"], row["layer"], row["site"]) for row in rows] == [
        ("up", "0", "m.layers.0.up"), ("up", "1", "m.layers.1.up"), ("down", "0", "m.layers.0.down"),
    ]  # fmt: skip
    assert float(rows[1]["strongest"]) == pytest.approx(0.625)
    assert "over 3 sites, 2 clusters and 4 experts" in path.with_suffix(".txt").read_text()
