"""The map of instructions: what is drawn, what a marker says, and what the files hold."""

import csv

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from llava_mocle.analysis.run.instruction_map import (
    Point,
    draw_instructions,
    embed_in_plane,
    kinds_of,
    plot_instruction_map,
)
from llava_mocle.errors import DataError


def test_distinct_instructions_are_drawn_alike_each_time():
    instructions = {"a": {f"a{place}": 3 for place in range(30)}, "b": {"b0": 100, "b1": 1}}
    drawn = draw_instructions(instructions, 10, seed=0)
    assert drawn == draw_instructions(dict(instructions), 10, seed=0)
    assert drawn != draw_instructions(instructions, 10, seed=1)
    assert {name: len(set(texts)) for name, texts in drawn.items()} == {"a": 10, "b": 2}


def test_the_plane_keeps_neighbours():
    """Three far groups: nearly all neighbours in the plane are neighbours in the space (1 is the best)."""
    generator = np.random.default_rng(0)
    points = np.repeat(np.eye(3, 16), 15, axis=0) + 0.05 * generator.normal(size=(45, 16))
    places = embed_in_plane(points.astype(np.float32), seed=0)
    assert places.shape == (45, 2)
    assert trustworthiness(points, places, n_neighbors=5) > 0.9
    with pytest.raises(DataError, match="at least 4"):
        embed_in_plane(points[:3], seed=0)


def test_what_a_marker_says():
    assert kinds_of(["a", "b"], [3, 1], 4, {}) == ["cluster 3", "cluster 1"]
    assert kinds_of(["a", "b"], [3, 1], 64, {}) == ["instruction", "instruction"]
    assert kinds_of(["a", "b"], [3, 1], 64, {"a": "VQA"}) == ["VQA", "other"]


def test_figure(tmp_path):
    points = [Point("a", "one?", "cluster 0"), Point("a", "two, three?", "cluster 1"), Point("b", "four", "cluster 1")]
    places = np.array([[0, 1], [2, 3], [-1, 0.5]])
    path = plot_instruction_map(points, places, tmp_path / "tsne.png", [0, 1, 1])
    with open(path.with_suffix(".csv"), newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows[1] == ("a", "cluster 1", "1", "2.0000", "3.0000", "two, three?")
    caption = path.with_suffix(".txt").read_text()
    assert "3 distinct instructions of 2 datasets" in caption
    assert "the marker says the cluster" in caption
