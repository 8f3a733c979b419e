import numpy as np
import pyarrow.parquet as pq
import pytest

from llava_mocle.clustering.assign import assign_rows, count_by_dataset, read_assignments, read_table, write_assignments
from llava_mocle.clustering.cluster_model import ClusterModel
from llava_mocle.clustering.instruction import InstructionRule, instruction_hash, instruction_text
from llava_mocle.errors import ClusterModelError, DataError
from tests.clustering.encoders import FakeEncoder, question_texts


def rows_of(texts, prefix="r"):
    return [
        {"id": f"{prefix}{index}", "conversations": [{"from": "human", "value": f"<image>\n{text}"}]}
        for index, text in enumerate(texts)
    ]


@pytest.fixture
def rows():
    texts = question_texts(50)
    return {"one": rows_of([*texts[:30], *texts[:10]]), "two": rows_of(texts[30:], "s"), "none": []}


@pytest.fixture
def model():
    return ClusterModel.fit(question_texts(50), 4, encoder=FakeEncoder(), progress=False)


@pytest.fixture
def path(model, rows, tmp_path):
    path = tmp_path / "sub" / "assignments.parquet"
    write_assignments(assign_rows(model, rows), path)
    return path


def test_table(model, rows, path):
    table = pq.read_table(path)
    assert table.column_names == ["dataset", "row_id", "row", "instruction_hash", "cluster_id", "distance"]
    assert table.num_rows == 60
    listed = table.to_pylist()
    flat = [(name, index, row) for name, part in rows.items() for index, row in enumerate(part)]
    texts = [instruction_text(row, InstructionRule()) for _, _, row in flat]
    ids, distances = model.assign(texts)
    for line, (name, index, row), text, cluster, distance in zip(listed, flat, texts, ids, distances, strict=True):
        assert (line["dataset"], line["row"], line["row_id"]) == (name, index, row["id"])
        assert line["instruction_hash"] == instruction_hash(text)
        assert (line["cluster_id"], np.float32(line["distance"])) == (cluster, distance)
    assert [entry.name for entry in path.parent.iterdir()] == ["assignments.parquet"]


def test_round_trip(model, rows, path):
    ids = read_assignments(path, rows, model)
    assert {name: len(part) for name, part in ids.items()} == {"one": 40, "two": 20, "none": 0}
    assert ids["one"].dtype == np.int64
    assert (ids["one"][:10] == ids["one"][30:]).all()
    only = read_assignments(path, {"two": rows["two"]}, model)
    assert (only["two"] == ids["two"]).all()


def test_counts(model, rows, path):
    ids = read_assignments(path, rows, model)
    names, counts = count_by_dataset(read_table(path))
    assert names == ["one", "two"]
    assert counts.shape == (4, 2)
    for column, name in enumerate(names):
        assert (counts[:, column] == np.bincount(ids[name], minlength=4)).all()


def test_reading_needs_no_encoder(model, rows, path, monkeypatch):
    monkeypatch.setattr(FakeEncoder, "encode", None)
    assert len(read_assignments(path, rows, model)["one"]) == 40


def changed_text(rows):
    rows["one"][7] = rows["one"][7] | {"conversations": [{"from": "human", "value": "Something else?"}]}
    rows["one"][9] = rows["one"][9] | {"conversations": [{"from": "human", "value": "This too"}]}


def changed_order(rows):
    rows["two"].reverse()


def one_row_less(rows):
    rows["one"].pop()


def one_row_more(rows):
    rows["two"].append(rows["two"][0])


def other_dataset(rows):
    rows["three"] = rows.pop("two")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed_text, ["'one', row 7:", "'r7'", "'Something else?'"]),
        (changed_order, ["'two', row 0:", "'s0'", "'s19'"]),
        (one_row_less, ["'one' has 40 rows in the table and 39 in the data", "row 39"]),
        (one_row_more, ["'two' has 20 rows in the table and 21 in the data", "row 20"]),
        (other_dataset, ["no dataset 'three'", "'one', 'two'"]),
    ],
)
def test_other_rows_are_refused(model, rows, path, change, words):
    change(rows)
    with pytest.raises(DataError) as error:
        read_assignments(path, rows, model)
    for word in [str(path), *words, "llava-mocle cluster"]:
        assert word in str(error.value)


class KnownRows(list):
    """Rows that know what they are, and can't be looked at."""

    def __init__(self, rows, digest):
        super().__init__(rows)
        self.digest = digest

    def __iter__(self):
        raise AssertionError("a row was looked at")


class Digested(list):
    digest = "d1"


def test_rows_of_a_known_digest_are_not_looked_at(model, rows, tmp_path):
    path = tmp_path / "assignments.parquet"
    known = {"one": Digested(rows["one"]), "two": rows["two"]}
    write_assignments(assign_rows(model, known), path)
    expected = read_assignments(path, rows, model)
    found = read_assignments(path, {"one": KnownRows(rows["one"], "d1")}, model)
    assert (found["one"] == expected["one"]).all()
    found = read_assignments(path, {"one": KnownRows(rows["one"], "d1"), "two": rows["two"]}, model)
    assert (found["two"] == expected["two"]).all()
    # Another digest only means that another file was read: its rows decide.
    other = Digested(rows["one"])
    other.digest = "d2"
    assert (read_assignments(path, {"one": other}, model)["one"] == expected["one"]).all()
    other[7] = rows["one"][8]
    with pytest.raises(DataError, match="'one', row 7:"):
        read_assignments(path, {"one": other}, model)
    with pytest.raises(AssertionError, match="looked at"):
        read_assignments(path, {"one": KnownRows(rows["one"], "d2")}, model)
    with pytest.raises(DataError, match="'one' has 40 rows in the table and 39 in the data"):
        read_assignments(path, {"one": KnownRows(rows["one"][:-1], "d1")}, model)


def test_table_rows_in_another_order(model, rows, path):
    table = pq.read_table(path)
    expected = read_assignments(path, rows, model)
    write_assignments(table.take(list(range(table.num_rows))[::-1]), path)
    found = read_assignments(path, rows, model)
    for name in rows:
        assert (found[name] == expected[name]).all()


def test_another_cluster_model_is_refused(rows, path):
    other = ClusterModel.fit(question_texts(50), 5, encoder=FakeEncoder(), progress=False)
    with pytest.raises(ClusterModelError) as error:
        read_assignments(path, rows, other)
    assert str(path) in str(error.value)
    assert other.fingerprint in str(error.value)


def test_missing_damaged_and_foreign_files(model, rows, path, tmp_path):
    with pytest.raises(DataError, match="no such assignment table"):
        read_assignments(tmp_path / "missing.parquet", rows, model)
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"torn\.parquet: not readable"):
        read_assignments(torn, rows, model)
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["distance"]), foreign)
    with pytest.raises(DataError, match="expected dataset"):
        read_assignments(foreign, rows, model)


def test_a_row_that_nothing_routes_is_named(model):
    with pytest.raises(DataError, match="dataset 'bad', row 1: row with id 'x'"):
        assign_rows(model, {"bad": [*rows_of(["fine"]), {"id": "x", "conversations": []}]})


def test_stored_clusters_are_looked_up_once_and_only_their_own_models(tmp_path) -> None:
    """A table answers without the encoder; a table of another clustering, or a damaged one, does not answer."""
    texts, encoder = question_texts(30), FakeEncoder()
    folder = tmp_path / "k3"
    ClusterModel.fit(texts, 3, encoder=encoder, progress=False).save(folder)
    fitted = ClusterModel.load(folder, encoder)
    rows = {"d": [{"id": str(i), "conversations": [{"from": "human", "value": text}]} for i, text in enumerate(texts)]}
    write_assignments(assign_rows(fitted, rows, progress=False), folder / "assignments.parquet")
    expected = fitted.assign(texts)
    fresh = FakeEncoder()
    model = ClusterModel.load(folder, fresh)
    found = model.assign(texts[::-1])
    assert fresh.calls == []
    assert (found[0] == expected[0][::-1]).all()
    assert (found[1] == expected[1][::-1]).all()
    (folder / "assignments.parquet").write_bytes(b"damaged")
    assert (model.assign(texts)[0] == expected[0]).all()
    assert fresh.calls == []
    damaged = ClusterModel.load(folder, fresh)
    assert (damaged.assign(texts)[0] == expected[0]).all()
    assert set(texts) <= set(fresh.calls)
    other = tmp_path / "k2"
    ClusterModel.fit(texts, 2, encoder=encoder, progress=False).save(other)
    table = assign_rows(ClusterModel.load(other, encoder), rows, progress=False)
    write_assignments(table, folder / "assignments.parquet")
    again = FakeEncoder()
    assert (ClusterModel.load(folder, again).assign(texts)[0] == expected[0]).all()
    assert set(texts) <= set(again.calls)
