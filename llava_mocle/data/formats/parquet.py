"""Records of official parquet files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError

# Records read at once: images of a few hundred kB each lie in memory together.
_BATCH = 64


def parquet_records(paths: Sequence[Path], *columns: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place for messages, record) of each record, with these columns.

    Raises:
        DataError: a file is no parquet file, is damaged, or lacks a column.
    """
    # Not above: `llava-mocle data make --help` needs no table library.
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in paths:
        number = 0
        try:
            with pq.ParquetFile(path) as file:
                if lacking := [column for column in columns if column not in file.schema_arrow.names]:
                    raise DataError(
                        f"{path}: no column {lacking[0]!r}, only {', '.join(file.schema_arrow.names)}; is this the "
                        "file of another version?"
                    )
                for batch in file.iter_batches(_BATCH, columns=list(columns)):
                    for record in batch.to_pylist():
                        yield f"{path}, record {number}", record
                        number += 1
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: cannot be read as parquet ({error}); fetch the file again.") from error


def image_bytes(record: dict[str, Any], place: str, column: str = "image") -> bytes | None:
    """The bytes in a column of images as Hugging Face's `datasets` writes them: {"bytes": ..., "path": ...}.

    None where the record has no image.

    Raises:
        DataError: the column holds something else.
    """
    value = record[column]
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("bytes"), bytes | None):
        raise DataError(f"{place}: field {column!r} is {value!r:.60}, expected an image's bytes.")
    return value.get("bytes") or None
