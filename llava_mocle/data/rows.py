"""Reading a file of LLaVA rows: validated once, then kept on disk as a `RowTable` for all processes and runs."""

import hashlib
import shlex
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from llava_mocle.data.conversation import row_images
from llava_mocle.data.row_files import opened, reads_as_lines, stream_rows
from llava_mocle.data.row_problems import Problem, first_problem
from llava_mocle.data.row_table import FORMAT_VERSION, RowTable, rows_in_memory, write_rows
from llava_mocle.errors import DataError
from llava_mocle.io.cache import cache_root
from llava_mocle.io.progress import progress

# Progress is reported after so many seconds.
_PATIENCE_S = 2.0


def read_rows(path: str | Path) -> RowTable:
    """Open a file of rows; the first time its content is met, validate it and keep it in `rows_cache_dir()`.

    Returns:
        The rows as they are in the file, in order, extra keys included.

    Raises:
        DataError: the file can't be parsed, or a row is wrong; names the first wrong row and counts the others.
    """
    path = Path(path)
    digest = rows_digest(path)
    file = rows_cache_dir() / f"{digest}.v{FORMAT_VERSION}.arrow"
    if file.exists():
        try:
            return RowTable.open(file, path, digest)
        except (pa.ArrowException, OSError, ValueError) as error:
            with suppress(OSError):
                file.unlink()
            warnings.warn(f"{file}: a damaged cache file, made again from {path} ({error})", stacklevel=2)
    try:
        write_rows(_checked_rows(path), file, digest)
        table = RowTable.open(file, path, digest)
    except OSError as error:
        warnings.warn(
            f"{file}: rows can't be kept there ({error}), so each process holds them in its own memory; point "
            "LLAVA_MOCLE_CACHE at a folder with space",
            stacklevel=2,
        )
        table = rows_in_memory(_checked_rows(path), path, digest)
    if rows_digest(path) != digest:
        file.unlink(missing_ok=True)
        raise DataError(f"{path}: was changed while it was read; run again when nothing writes to it any more")
    return table


def rows_cache_dir() -> Path:
    """The folder of the kept rows; its files may be deleted when no run is using them."""
    return cache_root() / "rows"


def rows_digest(path: Path) -> str:
    """A digest of what a file of rows holds: of its bytes, and of whether they are read as lines.

    Raises:
        DataError: no such file, or a folder.
    """
    with opened(path, "rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    return f"{content[:48]}-{'lines' if reads_as_lines(path) else 'list'}"


def _checked_rows(path: Path) -> Iterator[tuple[str, int]]:
    """(JSON text, number of images) of each row; raises at the end if a row was wrong."""
    first: Problem | None = None
    wrong = 0
    size = path.stat().st_size
    with progress(size, f"reading {path.name}", "byte", patience=_PATIENCE_S, unit_scale=True) as bar:
        for index, (text, row) in enumerate(stream_rows(path)):
            problem = first_problem(row, index)
            if problem is not None:
                first = first or problem
                wrong += 1
            if first is None:
                yield text, len(row_images(row))
            bar.update(len(text))
    if first is not None:
        command = f"llava-mocle data check --rows {shlex.quote(str(path))} --no-images"
        others = f" ({wrong - 1} more rows have problems: `{command}` lists them)"
        raise DataError(f"{path}: {first.describe()}{others if wrong > 1 else ''}")
