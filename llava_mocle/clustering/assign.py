"""Rows -> assignment table: the cluster of each row, in a Parquet file that records what it was made from."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llava_mocle.clustering.instruction import InstructionRule, instruction_hash, instruction_text
from llava_mocle.errors import ClusterModelError, DataError
from llava_mocle.io.files import written_aside
from llava_mocle.io.text import not_unicode

if TYPE_CHECKING:
    from llava_mocle.clustering.cluster_model import ClusterModel

Rows = Sequence[Mapping[str, Any]]

_FINGERPRINT = b"llava_mocle.cluster_model_fingerprint"
_NUM_CLUSTERS = b"llava_mocle.num_clusters"
_ROWS_DIGESTS = b"llava_mocle.rows_digests"
_SCHEMA = pa.schema(
    [
        ("dataset", pa.dictionary(pa.int32(), pa.string())),
        ("row_id", pa.string()),
        ("row", pa.int64()),
        ("instruction_hash", pa.string()),
        ("cluster_id", pa.int32()),
        ("distance", pa.float32()),
    ]
)


def route_texts(rows_by_dataset: Mapping[str, Rows], rule: InstructionRule) -> dict[str, list[str]]:
    """Return dataset -> the text that routes each of its rows.

    Raises:
        DataError: a row has no such text; names the dataset and the row.
    """
    return {name: [text for _, text in _routed(name, rows, rule)] for name, rows in rows_by_dataset.items()}


def assign_rows(
    cluster_model: "ClusterModel",
    rows_by_dataset: Mapping[str, Rows],
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> pa.Table:
    """Return one table row for each data row; `row` is its index in its dataset.

    Rows with a `digest` attribute (a `RowTable`) leave it in the table's metadata, so that reading the table with the
    same rows need not look at them again.
    """
    texts = route_texts(rows_by_dataset, cluster_model.rule)
    flat = [text for part in texts.values() for text in part]
    ids, distances = cluster_model.assign(flat, cache_dir=cache_dir, progress=progress)
    names = list(rows_by_dataset)
    sizes = [len(rows_by_dataset[name]) for name in names]
    dataset = pa.DictionaryArray.from_arrays(
        pa.array(np.repeat(np.arange(len(names)), sizes), pa.int32()), pa.array(names, pa.string())
    )
    columns = [
        dataset,
        pa.array([_row_id(row) for rows in rows_by_dataset.values() for row in rows], pa.string()),
        pa.array(np.concatenate([np.arange(size) for size in sizes]) if sizes else [], pa.int64()),
        pa.array([instruction_hash(text) for text in flat], pa.string()),
        pa.array(ids, pa.int32()),
        pa.array(distances, pa.float32()),
    ]
    metadata = {
        _FINGERPRINT: cluster_model.fingerprint.encode(),
        _NUM_CLUSTERS: str(cluster_model.num_clusters).encode(),
        _ROWS_DIGESTS: json.dumps({name: _digest(rows) for name, rows in rows_by_dataset.items()}).encode(),
    }
    return pa.Table.from_arrays(columns, schema=_SCHEMA.with_metadata(metadata))


def write_assignments(table: pa.Table, path: str | Path) -> None:
    """Write the table beside `path` and rename it into place."""
    with written_aside(path) as aside:
        pq.write_table(table, aside)


def read_assignments(
    path: str | Path, rows_by_dataset: Mapping[str, Rows], cluster_model: "ClusterModel"
) -> dict[str, np.ndarray]:
    """Return dataset -> cluster ids (rows,) int64, after checking that the table was made from these rows.

    Needs no encoder. Datasets in the table that are not asked for are ignored. Rows whose digest stands in the table
    are not looked at; all others are checked one by one.

    Raises:
        ClusterModelError: the table was made by another cluster model.
        DataError: missing, damaged, or made from other rows; names the first row that differs.
    """
    digests = check_table(path, [], cluster_model)
    known = {name for name, rows in rows_by_dataset.items() if (own := _digest(rows)) and digests.get(name) == own}
    # The texts of a million rows are large: they are read only if a row is to be compared.
    columns = ["dataset", "row", "cluster_id"] if known == set(rows_by_dataset) else _SCHEMA.names
    table = _read(path, columns)
    return {
        dataset: _checked_ids(path, table, dataset, rows, None if dataset in known else cluster_model.rule)
        for dataset, rows in rows_by_dataset.items()
    }


def check_table(path: str | Path, datasets: Iterable[str], cluster_model: "ClusterModel") -> dict[str, str | None]:
    """Check what can be known of a table without rows; return dataset -> digest of the rows that it was made from.

    Raises:
        ClusterModelError: the table was made by another cluster model.
        DataError: missing, damaged, or without one of the datasets.
    """
    metadata = _metadata(path)
    found = metadata.get(_FINGERPRINT, b"").decode()
    if found != cluster_model.fingerprint:
        raise ClusterModelError(
            f"{path}: made by the cluster model with fingerprint {found or 'unknown'}, but this one has "
            f"{cluster_model.fingerprint}. {_REMEDY}"
        )
    digests: dict[str, str | None] = json.loads(metadata.get(_ROWS_DIGESTS, b"{}"))
    for dataset in datasets:
        if digests and dataset not in digests:
            raise _no_dataset(path, dataset, digests)
    return digests


def _no_dataset(path: str | Path, dataset: str, known: Iterable[str]) -> DataError:
    names = ", ".join(map(repr, known))
    return DataError(f"{path}: holds no dataset {dataset!r}, only {names or 'none'}. {_REMEDY}")


def read_table(path: str | Path) -> pa.Table:
    """Read an assignment table without checking it against rows.

    Raises:
        DataError: missing, not Parquet, or with other columns.
    """
    _metadata(path)
    return _read(path, _SCHEMA.names)


def _metadata(path: str | Path) -> dict[bytes, bytes]:
    """The record of what the table was made from. Raises unless the table has all columns."""
    with _readable(path), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
    if schema.names != _SCHEMA.names:
        raise DataError(
            f"{path}: has columns {', '.join(schema.names)}; expected {', '.join(_SCHEMA.names)}. {_REMEDY}"
        )
    return schema.metadata or {}


def _read(path: str | Path, columns: Sequence[str]) -> pa.Table:
    with _readable(path), pq.ParquetFile(path) as file:
        return file.read(columns=list(columns))


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such assignment table. {_REMEDY}") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet ({error}). {_REMEDY}") from error


def read_stored(path: str | Path, fingerprint: str) -> pa.Table | None:
    """What a table knows of texts: instruction_hash, cluster_id, distance. Needs no encoder.

    None for a table that is not there or was made by a cluster model with another fingerprint.

    Raises:
        DataError: the table is damaged.
    """
    if not Path(path).is_file() or _metadata(path).get(_FINGERPRINT, b"").decode() != fingerprint:
        return None
    return _read(path, ["instruction_hash", "cluster_id", "distance"])


def find_stored(table: pa.Table, texts: Sequence[str]) -> dict[str, tuple[int, float]]:
    """Those of `texts` that a table of `read_stored` knows -> (cluster id, distance)."""
    hashes = pa.array([instruction_hash(text) for text in texts], pa.string())
    places = pc.index_in(hashes, table["instruction_hash"]).to_pylist()
    ids, distances = table["cluster_id"].to_numpy(), table["distance"].to_numpy()
    return {
        text: (int(ids[place]), float(distances[place]))
        for text, place in zip(texts, places, strict=True)
        if place is not None
    }


def ids_by_dataset(table: pa.Table) -> dict[str, np.ndarray]:
    """Dataset -> cluster ids (rows,) int64 of a table that `assign_rows` has just made."""
    column, ids = table["dataset"].cast(pa.string()), table["cluster_id"].to_numpy().astype(np.int64)
    names = column.to_numpy()
    return {name: ids[names == name] for name in column.unique().to_pylist()}


def count_by_dataset(table: pa.Table) -> tuple[list[str], np.ndarray]:
    """Return (dataset names in the table's order, counts (K, datasets) int64): how many rows of each cluster."""
    num_clusters = int((table.schema.metadata or {}).get(_NUM_CLUSTERS, b"0"))
    column = table["dataset"].cast(pa.string())
    names = [str(name) for name in column.unique().to_pylist()]
    dataset = pc.index_in(column, pa.array(names, pa.string())).to_numpy()
    counts = np.zeros((num_clusters, len(names)), dtype=np.int64)
    np.add.at(counts, (table["cluster_id"].to_numpy(), dataset), 1)
    return names, counts


_REMEDY = "Run `llava-mocle cluster` on the rows as they are now, with --overwrite to replace this clustering"


def _checked_ids(
    path: str | Path, table: pa.Table, dataset: str, rows: Rows, rule: InstructionRule | None
) -> np.ndarray:
    """Cluster ids of a dataset's rows; with a rule every row is compared with what the table was made from."""
    part = table.filter(pc.equal(table["dataset"], dataset))
    if not np.array_equal(part["row"].to_numpy(), np.arange(part.num_rows)):
        part = part.sort_by("row")
    if part.num_rows == 0 and len(rows):
        raise _no_dataset(path, dataset, table["dataset"].cast(pa.string()).unique().to_pylist())
    if rule is not None:
        _compare_rows(path, part, dataset, rows, rule)
    if part.num_rows != len(rows):
        raise DataError(
            f"{path}: dataset {dataset!r} has {part.num_rows} rows in the table and {len(rows)} in the data; the first "
            f"that differs is row {min(part.num_rows, len(rows))}. {_REMEDY}"
        )
    return part["cluster_id"].to_numpy().astype(np.int64)


def _compare_rows(path: str | Path, part: pa.Table, dataset: str, rows: Rows, rule: InstructionRule) -> None:
    """Raise at the first row that has another id or instruction than the table."""
    hashes, row_ids = part["instruction_hash"].to_pylist(), part["row_id"].to_pylist()
    for index, (row, text) in enumerate(_routed(dataset, rows, rule)):
        if index >= part.num_rows:
            break
        if hashes[index] != instruction_hash(text) or row_ids[index] != _row_id(row):
            raise DataError(
                f"{path}: dataset {dataset!r}, row {index}: the table was made from id {row_ids[index]!r} with "
                f"instruction hash {hashes[index]}, the row now has id {_row_id(row)!r} and hash "
                f"{instruction_hash(text)} ({text[:60]!r}). {_REMEDY}"
            )


def _routed(dataset: str, rows: Rows, rule: InstructionRule) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Each row with the text that routes it. Raises DataError also for names and ids that no table can hold."""
    if (wrong := not_unicode(dataset)) is not None:
        raise DataError(f"dataset {dataset!r}: its name holds {wrong}; rename it")
    for index, row in enumerate(rows):
        try:
            text = instruction_text(row, rule)
        except DataError as error:
            raise DataError(f"dataset {dataset!r}, row {index}: {error}") from error
        if (wrong := not_unicode(_row_id(row))) is not None:
            raise DataError(f"dataset {dataset!r}, row {index}: field 'id' holds {wrong}; give the row another id")
        yield row, text


def _digest(rows: Rows) -> str | None:
    return getattr(rows, "digest", None)


def _row_id(row: Mapping[str, Any]) -> str:
    return str(row.get("id", ""))
