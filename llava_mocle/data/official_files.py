"""Reading the official files of datasets and benchmarks, with errors that name file, record and field."""

import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from llava_mocle.data.row_files import stream_rows
from llava_mocle.errors import DataError
from llava_mocle.io.jsonl import json_fault, parse_jsonl

ID = str | int
TEXT_OR_NUMBER = str | int | float
# Python reads no number of thousands of digits from a text.
_DIGITS = re.compile(r"\d{1,18}", re.ASCII)
_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    NoneType: "null",
    object: "a value",
}


def read_text(path: Path) -> str:
    """A UTF-8 file, without its byte-order mark if it has one.

    Raises:
        DataError: missing, not to be read, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; docs/data.md and `llava-mocle eval prepare` say where it comes from."
        ) from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}); expected a file.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8; fetch the file again, or save your own as UTF-8."
        ) from error


def read_json(path: Path) -> Any:
    """A JSON file. Raises DataError: missing, not UTF-8, not JSON."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}); fetch the file again.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({json_fault(error)}); fetch the file again.") from error


def json_records(path: Path, key: str | None = None) -> Iterator[tuple[str, Any]]:
    """The `places` of a JSON file's list, or of the list under `key` of its object."""
    content = read_json(path)
    return places(path, content if key is None else field(content, key, str(path)))


def jsonl_records(path: Path) -> Iterator[tuple[str, Any]]:
    """The `places` of a file with one JSON object a line; blank lines are skipped."""
    return places(path, [record for _, record in parse_jsonl(read_text(path), path, "fetch the file again.")])


def streamed_records(path: Path) -> Iterator[tuple[str, Any]]:
    """The `places` of a JSON file's list, read piece by piece: for files of hundreds of megabytes.

    Raises:
        DataError: missing, not UTF-8, not JSON, no list, an empty one, or a record that is no object.
    """
    for number, (_, record) in enumerate(stream_rows(path)):
        place = f"{path}, record {number}"
        if not isinstance(record, dict):
            raise DataError(f"{place}: found {record!r:.60}, expected an object.")
        yield place, record


def read_table(path: Path, delimiter: str = "\t") -> list[dict[str, str]]:
    """A TSV (or CSV) file with a header line; fields may be as large as a base64 image.

    Raises:
        DataError: missing, not UTF-8, or a row that has not as many columns as the header; names its last line.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    # Not splitlines: it would also cut at characters that a field may hold.
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    rows = []
    try:
        header = next(reader, [])
        for cells in filter(None, reader):  # blank lines have no cells
            while len(cells) > len(header) and not cells[-1]:
                cells.pop()
            if len(cells) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: found {len(cells)} columns, expected the header's {len(header)}; "
                    "is the file cut off? Fetch it again."
                )
            rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a table ({error}); fetch the file again.") from error
    return rows


def field(record: Mapping[str, Any], key: str, place: str, kind: Any = object) -> Any:
    """`record[key]`.

    Args:
        kind: what it has to be: a type, a union of types, or a `list[...]` of one. True and false are no numbers, and
            null is nothing but None.

    Raises:
        DataError: it is not there, or of another kind; names the place, and the keys that are or the value.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{place}: found {record!r:.60}, expected an object with the key {key!r}.")
    if key not in record:
        raise DataError(
            f"{place}: no {key!r}, only {', '.join(map(str, record)) or 'nothing'}; is this the file of another split "
            "or version?"
        )
    value = record[key]
    if type(value) is not kind:
        _check_kind(value, kind, f"{place}: field {key!r}")
    return value


def field_or(record: Mapping[str, Any], key: str, place: str, kind: Any, default: Any) -> Any:
    """`field` of a key that some versions of a file lack: `default` where it is not there."""
    return field(record, key, place, kind) if key in record else default


def whole_number(record: Mapping[str, Any], key: str, place: str) -> int:
    """`field`, which has to be a whole number of at least 0, or a text of its digits."""
    value = field(record, key, place, ID)
    if (number := number_of(value)) is None:
        raise DataError(
            f"{place}: field {key!r} is {value!r:.60}, expected a whole number; is this the file of another split or "
            "version?"
        )
    return number


def number_of(value: object) -> int | None:
    """The whole number of at least 0 that a value is, or that its digits write: 18 at most, as in 64 bits."""
    digits = _DIGITS.fullmatch(str(value))
    return int(digits.group()) if digits else None


def one_of(record: Mapping[str, Any], key: str, place: str, *allowed: Any) -> Any:
    """`field`, which has to be one of the values `allowed`."""
    value = field(record, key, place)
    if value not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise DataError(
            f"{place}: field {key!r} is {value!r:.60}, expected {wanted}; is this the file of another split or version?"
        )
    return value


def annotated(record: Mapping[str, Any], key: str, place: str, kind: Any = str) -> tuple[Any, ...]:
    """The entries, each of `kind`, of a record's list of what several people answered or wrote.

    Raises:
        DataError: no such list, an empty one, or an entry of another kind.
    """
    entries = field(record, key, place, list)
    if not entries:
        raise DataError(f"{place}: {key!r} is {entries!r}, expected what the annotators said, one entry each.")
    return tuple(field(record, key, place, list[kind]))


def places(path: Path, records: Any) -> Iterator[tuple[str, Any]]:
    """(place for messages, record) of each record of a list.

    Raises:
        DataError: no list, or a record that is no object.
    """
    if not isinstance(records, list):
        raise DataError(f"{path}: a {type(records).__name__}, expected a list of objects; is it of another version?")
    for number, record in enumerate(records):
        place = f"{path}, record {number}"
        if not isinstance(record, dict):
            raise DataError(f"{place}: found {record!r:.60}, expected an object.")
        yield place, record


def coco_image(folder: Path, prefix: str, record: Mapping[str, Any], place: str) -> Path:
    """The COCO image of the record's `image_id`: its number in twelve digits behind `prefix`.

    Raises:
        DataError: `image_id` is no number.
    """
    image_id = field(record, "image_id", place, ID)
    if (number := number_of(image_id)) is None:
        raise DataError(f"{place}: image_id is {image_id!r:.60}, expected the number of a COCO image.")
    return folder / f"{prefix}{number:012d}.jpg"


def _check_kind(value: Any, kind: Any, name: str) -> None:
    if get_origin(kind) is list:
        _check_kind(value, list, name)
        (entry_kind,) = get_args(kind)
        for number, entry in enumerate(value):
            if type(entry) is not entry_kind:  # as in `field`: most fit, and there are millions
                _check_kind(entry, entry_kind, f"{name}, entry {number},")
        return
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    fits = isinstance(value, kinds)
    if value is None:  # an object to Python
        fits = NoneType in kinds
    elif isinstance(value, bool):  # an int to Python
        fits = bool in kinds or object in kinds
    if not fits:
        wanted = " or ".join(_WORDS[one] for one in kinds)
        raise DataError(f"{name} is {value!r:.60}, expected {wanted}; is this the file of another split or version?")
