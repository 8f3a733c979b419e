"""JSON objects in files of their own, and JSONL: files with one JSON value a line."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_mocle.errors import CheckpointError, DataError, UserError
from llava_mocle.io.files import write_text


def read_json(
    path: Path, remedy: str = "the folder is damaged", error_class: type[UserError] = CheckpointError
) -> dict[str, Any]:
    """The JSON object that a file holds.

    Args:
        remedy: what to do about a file that holds none; ends the message.

    Raises:
        UserError: of `error_class`, where the file is missing or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise error_class(f"{path}: no such file; {remedy}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise error_class(f"{path}: cannot be read as JSON ({error}); {remedy}.") from error
    if not isinstance(value, dict):
        raise error_class(f"{path}: holds a {type(value).__name__}, expected a JSON object; {remedy}.")
    return value


def to_jsonl(records: Iterable[Mapping[str, Any]]) -> str:
    """The text of these records: one a line, each line with its line end, other scripts' letters as they are."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write_jsonl(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Write one record a line, in UTF-8; the file appears whole or not at all."""
    write_text(path, to_jsonl(records))


def parse_jsonl(
    text: str, path: str | os.PathLike[str], remedy: str, error_class: type[UserError] = DataError
) -> Iterator[tuple[str, Any]]:
    r"""Yield (place for messages, value) of each line that is not blank.

    Only "\n" ends a line: `str.splitlines` would also cut at characters that JSON allows inside strings.

    Args:
        path: the file that the text is of, for the place ("answers.jsonl, line 3").
        remedy: what to do about a line that is not JSON; ends the message.

    Raises:
        UserError: of `error_class`, where a line is not JSON.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            try:
                yield place, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise error_class(f"{place}: not JSON ({json_fault(error)}); {remedy}") from error


def json_fault(error: ValueError | RecursionError) -> str:
    """What `json.loads` found wrong, in a few words. It refuses numbers of thousands of digits and deep nesting too."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number with thousands of digits"
