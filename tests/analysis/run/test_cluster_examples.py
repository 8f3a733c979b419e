"""Sample instructions of clusters, on a model whose clusters are known."""

import csv

import numpy as np

from llava_mocle.analysis.run.cluster_examples import sample_examples, write_examples
from llava_mocle.clustering import Example


class Model:
    """Texts go to the cluster that their first letter names."""

    num_clusters = 2
    counts = np.array([30.0, 10.0])

    def assign(self, texts):
        return np.array([int(text[0]) for text in texts]), np.zeros(len(texts))

    def nearest_examples(self, cluster, n):
        return [Example(cluster, f"{cluster} near {place}", 4.0, 0.1) for place in range(n)]


INSTRUCTIONS = {
    "x": {"0 near 0": 5, "0 far": 1, "1 | a": 2},
    "y": {"0 near 0": 2, **{f"0 other {place}": 1 for place in range(20)}},
}


def test_nearest_and_random():
    found = sample_examples(Model(), INSTRUCTIONS, 3, seed=0)
    assert [(item.cluster, item.how) for item in found] == [
        *[(0, "nearest")] * 3, *[(0, "random")] * 3, *[(1, "nearest")] * 3, (1, "random"),
    ]  # fmt: skip
    assert found[0].datasets == ("x", "y")
    assert found[1].datasets == ()
    drawn = [item.text for item in found if (item.cluster, item.how) == (0, "random")]
    assert len(set(drawn)) == 3
    assert all(text.startswith("0 ") for text in drawn)
    assert found[-1] == type(found[-1])(1, "random", "1 | a", 2, ("x",))
    assert [item.how for item in sample_examples(Model(), {}, 2, seed=0)] == ["nearest"] * 4


def test_frequent_rows_are_drawn_more_often():
    """A row is as likely as another: an instruction of 30 of 40 rows comes first in about 3 of 4 draws of one."""
    instructions = {"x": {"0 often": 30, **{f"0 rare {place}": 1 for place in range(10)}}}
    first = [
        next(item.text for item in sample_examples(Model(), instructions, 1, seed) if item.how == "random")
        for seed in range(200)
    ]
    assert 130 < first.count("0 often") < 170  # 150 on average, s.d. 6


def test_files(tmp_path):
    path = write_examples(sample_examples(Model(), INSTRUCTIONS, 1, seed=0), Model.counts, tmp_path / "examples.md")
    text = path.read_text()
    assert "2 clusters of 40 instructions" in text
    assert "## Cluster 0: 30 instructions (75 %)" in text
    assert "| nearest | 4 | x, y | 0 near 0 |" in text
    assert "| random | 2 | x | 1 \\| a |" in text
    with open(path.with_suffix(".csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert rows[0] == {"cluster": "0", "how": "nearest", "rows": "4", "datasets": "x y", "instruction": "0 near 0"}
