import csv

import matplotlib
import numpy as np
import pytest
from PIL import Image

from llava_mocle.analysis.run.routing import plot_routing


def read(path):
    with open(path.with_suffix(".csv"), newline="") as file:
        return list(csv.DictReader(file))


def test_weights_of_a_cluster_sum_to_one(tmp_path):
    gates = np.random.default_rng(0).dirichlet([0.5] * 4, (6, 20))
    before = dict(matplotlib.rcParams)
    path = plot_routing(gates, tmp_path / "routing.png")
    assert dict(matplotlib.rcParams) == before
    with Image.open(path) as picture:
        assert picture.width > 800
    rows = read(path)
    assert len(rows) == 6 * 5
    for cluster in range(6):
        own = [row for row in rows if row["cluster"] == str(cluster)]
        assert sum(float(row["weight"]) for row in own) == pytest.approx(1, abs=1e-5)
        assert sum(float(row["expert_share"]) for row in own[:4]) == pytest.approx(1, abs=1e-5)
        assert own[4]["expert"] == "universal"
        assert float(own[4]["weight"]) == pytest.approx((1 - gates[cluster].max(-1)).mean(), abs=1e-6)


def test_without_a_universal_expert_there_is_no_row_for_it(tmp_path):
    gates = np.random.default_rng(0).dirichlet([0.5] * 3, (2, 5))
    rows = read(plot_routing(gates, tmp_path / "routing.png", top_k=2, universal=False))
    assert [row["expert"] for row in rows] == ["0", "1", "2"] * 2
