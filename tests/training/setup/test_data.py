"""Rows, cluster ids and held-out rows of a recipe, as the trainer gets them."""

import json
from pathlib import Path

import pyarrow.parquet as pq

from llava_mocle.data.rows import read_rows
from llava_mocle.model import load_model
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.setup.data import prepare_data


def test_every_sample_has_the_cluster_of_the_table(recipe_file, base: Path, mix: list[dict], clusters: Path) -> None:
    data = prepare_data(load_recipe(recipe_file()), load_model(base))
    assert data.dataset_names == ["pictures", "sums"]
    table = pq.read_table(clusters / "assignments.parquet").to_pylist()
    of_row = {(line["dataset"], str(line["row_id"])): line["cluster_id"] for line in table}
    rows = {spec["name"]: json.loads(Path(spec["data_path"]).read_text()) for spec in mix}
    expected = [
        of_row[spec["name"], row["id"]] for spec in mix for _ in range(spec["repeat"]) for row in rows[spec["name"]]
    ]
    found = [int(data.train[index]["cluster_id"]) for index in range(len(data.train))]
    assert sorted(found) == sorted(expected)
    assert len(set(found)) == 2


def test_what_identifies_the_data_is_its_content(recipe_file, base: Path, mix: list[dict]) -> None:
    data = prepare_data(load_recipe(recipe_file()), load_model(base))
    assert data.identity["rows"] == {spec["name"]: read_rows(spec["data_path"]).digest for spec in mix}
    assert data.identity["held_out_rows"] == {spec["name"]: read_rows(spec["eval_data_path"]).digest for spec in mix}
    assert data.identity["cluster_model"] == data.cluster_model.fingerprint


def test_without_held_out_rows_nothing_is_validated(recipe_file, base: Path, mix: list[dict]) -> None:
    specs = [{key: value for key, value in spec.items() if key != "eval_data_path"} for spec in mix]
    data = prepare_data(load_recipe(recipe_file(datasets=specs)), load_model(base))
    assert data.validation is None
    assert data.identity["held_out_rows"] == {}
