"""Reading LLaVA rows: a JSON list or JSONL, every row validated; errors say file, row, field, value and remedy."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mocle.data.conversation import ASSISTANT, HUMAN, IMAGE_TOKEN, ROLES, row_images
from llava_mocle.errors import DataError

_SHOWN = 60
_LINE_SUFFIXES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a row.

    Attributes:
        kind: short name, the same for all problems of its sort.
        row: index of the row in its file, from 0; None for a problem of the whole file.
        row_id: the row's `id`, if it has one.
        field: where in the row.
        found / expected / remedy: what to tell the reader.
        fatal: False for a remark: such a row can be trained on.
    """

    kind: str
    row: int | None
    row_id: Any
    field: str
    found: str
    expected: str
    remedy: str
    fatal: bool = True

    def describe(self) -> str:
        """Everything but the file's name, in one sentence."""
        row_id = "" if self.row_id is None else f" (id {self.row_id!r})"
        place = "" if self.row is None else f"row {self.row}{row_id}, "
        return f"{place}{self.field}: found {self.found}, expected {self.expected}; {self.remedy}"


def shorten(value: Any) -> str:
    """`repr` of a value, cut to fit in a message."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def parse_rows(path: str | Path) -> list[Any]:
    """Parse a file into its rows, without looking into them.

    A file is JSONL if it is named .jsonl or .ndjson, or starts with `{`; else it is one JSON list.

    Raises:
        DataError: no such file, not UTF-8, not JSON (with line and column), not a list, or no rows at all.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file of rows; check `data_path` and the folder the command runs in"
        ) from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: found a folder, expected a JSON or JSONL file of rows") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    if path.suffix in _LINE_SUFFIXES or text.lstrip()[:1] == "{":
        rows = _parse_lines(path, text)
    else:
        rows = _parse_list(path, text)
    if not rows:
        raise DataError(f"{path}: found no rows, expected at least one")
    return rows


def _parse_list(path: Path, text: str) -> list[Any]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        cut = " (the file ends there: it was probably cut off; copy it again)" if _at_end(text, error.pos) else ""
        raise DataError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno} (character {error.pos}): "
            f"{error.msg}{cut}; expected a list of rows: [{{...}}, ...]"
        ) from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: found a JSON {_type_name(rows)}, expected a list of rows: [{{...}}, ...]")
    return rows


def _parse_lines(path: Path, text: str) -> list[Any]:
    rows = []
    # Only "\n" ends a line: str.splitlines would also cut at characters that JSON allows inside strings.
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            last = not "".join(lines[number:]).strip()
            cut = " (the last line: the file was probably cut off; copy it again)" if last else ""
            raise DataError(
                f"{path}: not valid JSON at line {number}, column {error.colno} (character {error.pos} of the line): "
                f"{error.msg}{cut}; expected one row a line: {{...}}"
            ) from error
    return rows


def _at_end(text: str, position: int) -> bool:
    # An unterminated string is reported at its opening quote, so look for a closed bracket at the end as well.
    return position >= len(text.rstrip()) or not text.rstrip().endswith("]")


def _type_name(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def row_problems(row: Any, index: int) -> Iterator[Problem]:
    """Everything wrong with one row, remarks included, without opening its images."""
    if not isinstance(row, Mapping):
        yield Problem("wrong type", index, None, "row", shorten(row), "an object {...}", "write one object a row")
        return
    row_id = row.get("id")
    for found in (*_check_image(row), *_check_conversations(row)):
        kind, field, value, expected, remedy, *remark = found
        yield Problem(kind, index, row_id, field, value, expected, remedy, fatal=not remark)


def _check_image(row: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    image = row.get("image")
    paths = image if isinstance(image, list) else [] if image is None else [image]
    for position, path in enumerate(paths):
        field = f"image[{position}]" if isinstance(image, list) else "image"
        if not isinstance(path, str) or not path:
            remedy = "leave the key out (or null) for a row without an image"
            yield "wrong type", field, shorten(path), "a path or a list of paths", remedy


def _check_conversations(row: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    if "conversations" not in row:
        keys = ", ".join(map(str, row)) or "none"
        yield "missing key", "conversations", f"keys {keys}", "the key 'conversations'", "add the row's turns"
        return
    turns = row["conversations"]
    if not isinstance(turns, list) or not turns:
        example = "a list of {'from': ..., 'value': ...}"
        yield "wrong type", "conversations", shorten(turns), example, "give at least a human and a gpt turn"
        return
    broken = list(_check_turns(turns))
    yield from broken
    if not broken:
        yield from _check_order(turns)
        yield from _check_images_against_tags(row, turns)


def _check_turns(turns: list[Any]) -> Iterator[tuple[Any, ...]]:
    for position, turn in enumerate(turns):
        place = f"conversations[{position}]"
        if not isinstance(turn, Mapping):
            yield "wrong type", place, shorten(turn), "{'from': ..., 'value': ...}", "write each turn as an object"
            continue
        missing = [key for key in ("from", "value") if key not in turn]
        for key in missing:
            keys = ", ".join(map(str, turn)) or "none"
            yield "missing key", f"{place}.{key}", f"keys {keys}", f"the key {key!r}", "add it"
        if "from" not in missing and turn["from"] not in ROLES:
            remedy = "rename the role; a system prompt belongs in the template"
            yield "unknown role", f"{place}.from", shorten(turn["from"]), "'human' or 'gpt'", remedy
        if "value" in missing:
            continue
        if not isinstance(turn["value"], str):
            yield "wrong type", f"{place}.value", shorten(turn["value"]), "text", "write the turn as a string"
        elif not turn["value"].strip():
            answer = turn.get("from") == ASSISTANT
            kind = "empty answer" if answer else "empty turn"
            expected = "the answer's text" if answer else "text or an <image>"
            yield kind, f"{place}.value", shorten(turn["value"]), expected, "fill it in or remove the row"


def _check_order(turns: list[Mapping[str, str]]) -> Iterator[tuple[Any, ...]]:
    skipped = int(turns[0]["from"] != HUMAN)
    if skipped:
        remedy = "this first turn is left out of training"
        yield "first turn not human", "conversations[0].from", "'gpt'", "'human'", remedy, "remark"
    kept = turns[skipped:]
    for position, turn in enumerate(kept):
        role = (HUMAN, ASSISTANT)[position % 2]
        if turn["from"] != role:
            field = f"conversations[{position + skipped}].from"
            yield (
                "turn order",
                field,
                repr(turn["from"]),
                repr(role),
                "human and gpt must alternate; merge or split turns",
            )
            return
    if not kept or kept[-1]["from"] != ASSISTANT:
        place = f"conversations[{len(turns) - 1}]"
        yield "empty answer", place, "no answer after it", "a last turn from 'gpt'", "add the answer or remove the row"


def _check_images_against_tags(row: Mapping[str, Any], turns: list[Mapping[str, str]]) -> Iterator[tuple[Any, ...]]:
    kept = turns[1:] if turns[0]["from"] != HUMAN else turns
    tags = sum(turn["value"].count(IMAGE_TOKEN) for turn in kept)
    try:
        images = len(row_images(row))
    except TypeError:  # of a wrong type, and reported as that
        return
    if tags != images:
        found = f"{tags} {IMAGE_TOKEN} tag{'' if tags == 1 else 's'} in the turns"
        remedy = "add the missing tag or image, or remove the one too many"
        yield "image count", "image", found, f"{images}, one for each image of the row", remedy
    for position, turn in enumerate(kept):
        if turn["from"] == ASSISTANT and turn["value"].strip() and not turn["value"].replace(IMAGE_TOKEN, "").strip():
            place = f"conversations[{position + len(turns) - len(kept)}].value"
            yield "empty answer", place, shorten(turn["value"]), "the answer's text", "fill it in or remove the row"


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Read and validate a file of rows.

    Returns:
        The rows as they are in the file, in order, extra keys included.

    Raises:
        DataError: the file can't be parsed, or a row is wrong; names the first wrong row and counts the others.
    """
    rows = parse_rows(path)
    problems = [problem for index, row in enumerate(rows) for problem in row_problems(row, index) if problem.fatal]
    if problems:
        others = len({problem.row for problem in problems}) - 1
        more = (
            f" ({others} more rows have problems: `llava-mocle data check --rows {path}` lists them)" if others else ""
        )
        raise DataError(f"{path}: {problems[0].describe()}{more}")
    return rows
