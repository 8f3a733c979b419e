import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llava_mocle.analysis.run.cluster_heatmap import count_assignments, plot_cluster_heatmap
from llava_mocle.errors import DataError


def write_table(path, **columns):
    pq.write_table(pa.table(columns).replace_schema_metadata({"llava_mocle.num_clusters": "4"}), path)
    return path


def test_counts_come_from_the_assignment_table(tmp_path):
    texts, numbers = [""] * 4, [0, 1, 2, 3]
    columns = {"dataset": ["b", "a", "b", "b"], "row_id": texts, "row": numbers, "instruction_hash": texts}
    path = write_table(tmp_path / "a.parquet", **columns, cluster_id=[0, 2, 2, 0], distance=[0.1, 0.2, 0.3, 0.4])
    counts = count_assignments(path)
    assert {name: values.tolist() for name, values in counts.items()} == {"b": [2, 0, 1, 0], "a": [0, 0, 1, 0]}


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such assignment table"):
        count_assignments(tmp_path / "none.parquet")
    with pytest.raises(DataError, match=r"has columns dataset; expected .*cluster_id"):
        count_assignments(write_table(tmp_path / "bad.parquet", dataset=["x"]))


@pytest.mark.parametrize("num_clusters", [3, 64])
def test_picture_and_data(tmp_path, num_clusters):
    rng = np.random.default_rng(0)
    counts = {f"set {row}": rng.integers(0, 50, num_clusters) for row in range(4)} | {"empty": [0] * num_clusters}
    path = plot_cluster_heatmap(counts, tmp_path / "deep" / "heatmap.png")
    with Image.open(path) as picture:
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20
    with open(path.with_suffix(".csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * num_clusters
    for row in rows:
        values = np.asarray(counts[row["dataset"]])
        assert int(row["count"]) == values[int(row["cluster"])]
        assert float(row["share"]) == pytest.approx(values[int(row["cluster"])] / max(values.sum(), 1), abs=1e-6)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        f"heatmap.{kind}" for kind in ("csv", "png", "svg", "txt")
    ]
    total = sum(int(np.sum(values)) for values in counts.values())
    assert f"n = {total:,} rows of 5 datasets" in path.with_suffix(".txt").read_text()


def test_held_out_datasets_stand_below_a_line(tmp_path):
    path = plot_cluster_heatmap({"a": [1, 1]}, tmp_path / "heatmap.png", held_out={"b": [0, 4]})
    with open(path.with_suffix(".csv"), newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("a", "1", "0", "1", "0.500000"),
        ("a", "1", "1", "1", "0.500000"),
        ("b", "0", "0", "0", "0.000000"),
        ("b", "0", "1", "4", "1.000000"),
    ]
    assert "datasets that the run was not trained on" in path.with_suffix(".txt").read_text()


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    files = [plot_cluster_heatmap({"a": [1, 2]}, tmp_path / name / "h.png") for name in ("one", "two")]
    for kind in (".png", ".svg", ".csv", ".txt"):
        first, second = (file.with_suffix(kind).read_bytes() for file in files)
        assert first == second


def test_nothing_to_draw(tmp_path):
    with pytest.raises(DataError, match="empty"):
        plot_cluster_heatmap({}, tmp_path / "heatmap.png")
