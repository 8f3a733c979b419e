import csv
import math

from llava_mocle.analysis.cluster_sweep import plot_sweep
from llava_mocle.clustering.sweep import Sweep, SweepPoint


def test_files(tmp_path):
    points = (
        SweepPoint(1, 12.5, 0.0, math.nan, 1.0, 1.0, 1.0),
        SweepPoint(4, 5.0, 0.6, 0.25, 0.9375, 0.75, 0.125),
    )
    path = plot_sweep(Sweep(points, 100, 80, 20, 200), tmp_path / "sweep.png")
    with open(path.with_suffix(".csv"), newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("1", "12.5", "0", "nan", "1", "1", "1"),
        ("4", "5", "0.6", "0.25", "0.9375", "0.75", "0.125"),
    ]
    caption = path.with_suffix(".txt").read_text()
    assert "2 values of K on 100 distinct instructions" in caption
    assert "of 20 questions, each in all templates of its kind (200 texts)" in caption
    assert "Try K = 4 first" in caption
    assert path.with_suffix(".svg").is_file()
