"""What can be wrong with one row, and how it is reported: field, value found, what was expected, what to do."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llava_mocle.data.conversation import ASSISTANT, HUMAN, IMAGE_TOKEN, ROLES, row_images, turns_left_out
from llava_mocle.io.text import not_unicode, one_line

_SHOWN = 60


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a row.

    Attributes:
        kind: short name; problems of the same kind are counted together.
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
        """The problem in one sentence, without the file's name."""
        row_id = "" if self.row_id is None else f" (id {shorten(self.row_id)})"
        place = "" if self.row is None else f"row {self.row}{row_id}, "
        return f"{place}{self.field}: found {self.found}, expected {self.expected}; {self.remedy}"


def shorten(value: Any) -> str:
    """`repr` of a value, cut to fit in a message."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def row_problems(row: Any, index: int) -> Iterator[Problem]:
    """Everything wrong with one row, remarks included, without opening its images."""
    if not isinstance(row, Mapping):
        yield Problem("wrong type", index, None, "row", shorten(row), "an object {...}", "write one object a row")
        return
    row_id = row.get("id")
    for found in (*_check_id(row), *_check_image(row), *_check_route_text(row), *_check_conversations(row)):
        kind, field, value, expected, remedy, *remark = found
        yield Problem(kind, index, row_id, field, value, expected, remedy, fatal=not remark)


def first_problem(row: Any, index: int, allowed: Container[str] = ()) -> Problem | None:
    """The first thing that keeps a row from being used, other than problems of the `allowed` kinds; None if nothing."""
    fatal = (problem for problem in row_problems(row, index) if problem.fatal and problem.kind not in allowed)
    return next(fatal, None)


def _check_id(row: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    row_id = row.get("id")
    if isinstance(row_id, str):
        yield from _check_text("id", row_id)
    elif row_id is not None and (isinstance(row_id, bool) or not isinstance(row_id, int)):
        remedy = "training does not mind, but no answer can carry it: held-out rows need another"
        yield "odd id", "id", shorten(row_id), "text or a whole number", remedy, "remark"


def _check_route_text(row: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    route_text = row.get("route_text")
    if route_text is None:
        return
    if not isinstance(route_text, str) or not route_text.strip():
        remedy = "fill it in, or leave the key out to route by the human turn"
        yield "wrong type", "route_text", shorten(route_text), "a text that is not empty", remedy
    else:
        yield from _check_text("route_text", route_text)


def _check_text(field: str, text: str) -> Iterator[tuple[Any, ...]]:
    if not text.isascii() and (wrong := not_unicode(text)) is not None:
        remedy = "write the character in full or remove the row: no tokenizer, table or file takes such text"
        yield "wrong text", field, wrong, "text that UTF-8 can hold", remedy


def _check_image(row: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    image = row.get("image")
    paths = image if isinstance(image, list) else [] if image is None else [image]
    for position, path in enumerate(paths):
        field = f"image[{position}]" if isinstance(image, list) else "image"
        if not isinstance(path, str) or not path:
            remedy = "leave the key out (or null) for a row without an image"
            yield "wrong type", field, shorten(path), "a path or a list of paths", remedy
        else:
            yield from _check_text(field, path)


def _check_conversations(row: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    if "conversations" not in row:
        keys = _keys(row)
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
            keys = _keys(turn)
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
        else:
            yield from _check_text(f"{place}.value", turn["value"])


def _keys(entries: Mapping[str, Any]) -> str:
    return one_line(", ".join(map(str, entries))) or "none"


def _check_order(turns: list[Mapping[str, str]]) -> Iterator[tuple[Any, ...]]:
    skipped = turns_left_out(turns)
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
    kept = turns[turns_left_out(turns) :]
    tags = sum(turn["value"].count(IMAGE_TOKEN) for turn in kept)
    try:
        images = len(row_images(row))
    except TypeError:  # `_check_image` reports the wrong type
        return
    if tags != images:
        found = f"{tags} {IMAGE_TOKEN} tag{'' if tags == 1 else 's'} in the turns"
        remedy = "add the missing tag or image, or remove the one too many"
        yield "image count", "image", found, f"{images}, one for each image of the row", remedy
    for position, turn in enumerate(kept):
        if turn["from"] == ASSISTANT and turn["value"].strip() and not turn["value"].replace(IMAGE_TOKEN, "").strip():
            place = f"conversations[{position + len(turns) - len(kept)}].value"
            yield "empty answer", place, shorten(turn["value"]), "the answer's text", "fill it in or remove the row"
