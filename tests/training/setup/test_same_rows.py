"""Ranks that have read different rows say so before the first step."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llava_mocle.data.mixture import DatasetSpec
from llava_mocle.training.setup.same_rows import difference, fingerprint
from tests.training.ranks import start


def data(rows: dict[str, str], ids: list[int] | None = None, lengths: tuple[int, ...] = (5, 6)) -> dict:
    """As much of a run's data as a fingerprint looks at: dataset name -> digest of its rows, of which each has two."""

    class Rows(list):
        digest = ""

    tables = {}
    for name, digest in rows.items():
        tables[name] = Rows([{}, {}])
        tables[name].digest = digest
    mixture = SimpleNamespace(specs=[DatasetSpec(name, f"{name}.json") for name in rows], rows=tables)

    class Dataset(list):
        pass

    train = Dataset([0] * len(lengths))
    train.mixture, train.lengths = mixture, np.array(lengths)
    train.cluster_ids = None if ids is None else {name: np.array(ids) for name in rows}
    return {"rows": train, "held-out rows": None}


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        (data({"a": "1", "b": "2"}), data({"a": "1", "b": "3"}), "dataset 'b' (b.json): rows: not the same"),
        (data({"a": "1"}, [0, 1]), data({"a": "1"}, [1, 0]), "dataset 'a' (a.json): cluster ids of its rows"),
        (data({"a": "1"}), data({"a": "1"}, lengths=(5, 7)), "samples that the model's tokenizer"),
        (data({"a": "1"}), data({"a": "1"}, lengths=(5,)), "1 with lengths"),
        (data({"a": "1"}, [0, 1]), data({"a": "1"}), "none (two)"),
    ],
)
def test_a_difference_is_named(here, there, expected: str) -> None:
    found = difference([("one", fingerprint(here)), ("two", fingerprint(there))])
    assert found is not None
    assert expected in found
    assert "(one)" in found
    assert "(two)" in found
    assert difference([("one", fingerprint(here)), ("two", fingerprint(here))]) is None


@pytest.mark.slow
@pytest.mark.parametrize("change", ["order", "shorter"])
def test_two_ranks_with_their_own_copies(recipe_file, mix: list[dict], tmp_path: Path, change: str) -> None:
    folders = [tmp_path / "node0", tmp_path / "node1"]
    for folder in folders:
        shutil.copytree(Path(mix[0]["data_path"]).parent, folder)
    path = folders[1] / "sums.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps(rows[::-1] if change == "order" else rows[:-3]))
    datasets = [{key: spec[key] for key in ("name", "repeat")} for spec in mix]
    for spec in datasets:
        spec |= {"data_path": f"{spec['name']}.json", "image_folder": "images"}
    # A plain LoRA has no assignment table that would notice.
    keys = {"datasets": datasets, "adapter": "lora", "cluster_model": None, "save_strategy": "no"}
    ranks = start(tmp_path / "logs", recipe_file(**keys), count=2, folders=folders)
    assert ranks.wait() == [2, 2], ranks.output() + ranks.output(1)
    for rank in (0, 1):
        said = ranks.output(rank)
        assert said.count("error: ") == 1
        assert "error: dataset 'sums' (sums.json): rows: not the same on all ranks: 24 with digest" in said
        assert "rank 1 on " in said
        assert "Traceback" not in said
