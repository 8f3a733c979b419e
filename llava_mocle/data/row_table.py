"""Rows that stay on disk: an Arrow file of their JSON texts, mapped into memory; each row is parsed when it is read."""

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa

from llava_mocle.errors import DataError

# Raise this when the file's columns change, or the checks that its rows have passed.
FORMAT_VERSION = 3
_DIGEST = b"llava_mocle.rows_digest"
_SCHEMA = pa.schema([("row", pa.large_binary()), ("images", pa.int32())])
# A batch is written when it has so many rows or bytes. This limits the memory that writing takes.
_BATCH_ROWS = 8192
_BATCH_BYTES = 16 << 20


class RowTable(Sequence[dict[str, Any]]):
    """The validated rows of a file; `table[i]` parses row i, a slice gives a list.

    The rows take no memory of the process itself: the file is mapped, all processes of a machine share its pages, and
    the system may drop them. When a table is sent to another process, the file's name is sent, not its content.

    Attributes:
        source: the file of rows that this was made from.
        digest: of that file's content. Equal digests mean equal rows.
    """

    def __init__(self, source: Path, digest: str, file: Path | None, table: pa.Table) -> None:
        """Use `RowTable.open`, or `read_rows` for a file of rows."""
        self.source = source
        self.digest = digest
        self._file = file
        self._table = table
        self._texts = table["row"]

    @classmethod
    def open(cls, file: Path, source: Path, digest: str) -> "RowTable":
        """Map a file that `write_rows` made.

        Raises:
            OSError, pyarrow.ArrowException, ValueError: no such file, cut off, or made from something else.
        """
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
        table.validate()
        found = (table.schema.metadata or {}).get(_DIGEST, b"").decode()
        if found != digest or not table.schema.equals(_SCHEMA):
            raise ValueError(f"holds {', '.join(table.schema.names)} of {found or 'nothing known'}, not of {digest}")
        return cls(source, digest, file, table)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._file is None:
            return RowTable, (self.source, self.digest, None, self._table)
        return _reopen, (self._file, self.source, self.digest)

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._parse(place, self._texts[place].as_py())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        start = 0
        for chunk in self._texts.chunks:
            for place, text in enumerate(chunk, start):
                yield self._parse(place, text.as_py())
            start += len(chunk)

    def __repr__(self) -> str:
        return f"RowTable({str(self.source)!r}, {len(self)} rows)"

    def _parse(self, place: int, text: bytes) -> dict[str, Any]:
        try:
            return json.loads(text.decode())
        except ValueError as error:
            raise DataError(
                f"{self._file}: row {place} of {self.source} is damaged in this cache file ({error}); delete it, it is "
                "made again"
            ) from error

    def image_counts(self) -> np.ndarray:
        """How many images each row has, int32 (N,), without parsing a row."""
        return self._table["images"].to_numpy()


def _reopen(file: Path, source: Path, digest: str) -> RowTable:
    try:
        return RowTable.open(file, source, digest)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file}: can't be read any more ({error}); start again, it is made from {source}") from error


def write_rows(rows: Iterable[tuple[str, int]], file: Path, digest: str) -> None:
    """Write (JSON text, number of images) of each row aside, and give the file its name when it is whole.

    Several processes may do this at once: each writes a file of its own, and the first that is done gives its file the
    name. A file of that name is never replaced: on a network file system, a process that has mapped it would lose it.

    Raises:
        OSError: the folder can't take it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("wb") as stream:
            _write(rows, stream, digest)
            stream.flush()
            os.fsync(stream.fileno())
        _give_name(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def _give_name(aside: Path, file: Path) -> None:
    try:
        os.link(aside, file)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        os.replace(aside, file)


def rows_in_memory(rows: Iterable[tuple[str, int]], source: Path, digest: str) -> RowTable:
    """The same table in the process's own memory, for when no file can be kept."""
    sink = pa.BufferOutputStream()
    _write(rows, sink, digest)
    return RowTable(source, digest, None, pa.ipc.open_file(sink.getvalue()).read_all())


def _write(rows: Iterable[tuple[str, int]], sink: Any, digest: str) -> None:
    schema = _SCHEMA.with_metadata({_DIGEST: digest.encode()})
    texts: list[bytes] = []
    images: list[int] = []
    held = 0
    with pa.ipc.new_file(sink, schema) as writer:
        for text, count in rows:
            texts.append(text.encode())
            images.append(count)
            held += len(texts[-1])
            if len(texts) == _BATCH_ROWS or held >= _BATCH_BYTES:
                writer.write_batch(_batch(texts, images, schema))
                texts, images, held = [], [], 0
        if texts:
            writer.write_batch(_batch(texts, images, schema))


def _batch(texts: list[bytes], images: list[int], schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch([pa.array(texts, pa.large_binary()), pa.array(images, pa.int32())], schema=schema)
