"""Which text of a sample routes it: one rule, versioned, the same for training, evaluation and serving.

The rule (version 1), for a LLaVA row:

1. A `route_text` field that is not null wins over everything else.
2. Otherwise `turns="first"` takes the first human turn, and `turns="all"` all human turns joined by newlines. So
   a first turn by gpt, which training drops, makes no difference.
3. In each text `<image>` is removed; what stays is stripped of white space at both ends.

A change to any of these changes clusters of existing data, so it needs a new version number. A text that UTF-8 cannot
hold routes nothing: it is an error.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_mocle.errors import ClusterModelError, ConfigError, DataError
from llava_mocle.io.text import not_unicode, one_line

RULE_VERSION = 1
TURNS = ("first", "all")
# The mark of an image in a row or a request, and who asks in a row; this is the lowest room that reads one.
IMAGE_TOKEN = "<image>"
HUMAN = "human"


@dataclass(frozen=True)
class InstructionRule:
    """The rule's one choice (`turns`) and its version.

    Raises:
        ConfigError: `turns` is neither "first" nor "all".
        ClusterModelError: a version that this release does not know.
    """

    turns: str = "first"
    version: int = RULE_VERSION

    def __post_init__(self) -> None:
        if self.turns not in TURNS:
            raise ConfigError(f"instruction_turns is {self.turns!r}, expected one of {', '.join(map(repr, TURNS))}")
        if self.version != RULE_VERSION:
            raise ClusterModelError(
                f"instruction_rule_version is {self.version!r}, this release of llava_mocle knows version "
                f"{RULE_VERSION}: use the release that wrote the cluster model, or run `llava-mocle cluster` again"
            )


def instruction_text(row: Mapping[str, Any], rule: InstructionRule) -> str:
    """Return the text that routes one row; it may be empty (a row that shows an image and asks nothing).

    Raises:
        DataError: no human turn, a turn without text, a `route_text` that is not a non-empty text, or a text that UTF-8
            cannot hold.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"a row is {one_line(row)}, expected an object with the key 'conversations'")
    route_text = row.get("route_text")
    if route_text is not None:
        if not isinstance(route_text, str) or not route_text.strip():
            raise DataError(
                f"{_place(row)}: field 'route_text' is {one_line(repr(route_text))}, expected a non-empty text: fill "
                "it, or remove it to route by the human turn"
            )
        return _clean(route_text, f"{_place(row)}: field 'route_text'")
    turns = row.get("conversations")
    if not isinstance(turns, list):
        raise DataError(f"{_place(row)}: field 'conversations' is {one_line(repr(turns))}, expected a list of turns")
    human = [turn for turn in turns if isinstance(turn, Mapping) and turn.get("from") == HUMAN]
    if not human:
        raise DataError(f"{_place(row)}: no turn is from 'human', so no text routes this row: add one, or `route_text`")
    for turn in human:
        if not isinstance(turn.get("value"), str):
            raise DataError(
                f"{_place(row)}: a human turn's 'value' is {one_line(repr(turn.get('value')))}, expected a text"
            )
    return _joined([turn["value"] for turn in human], rule, f"{_place(row)}: a human turn's 'value'")


def instruction_from_prompt(prompt: str | Sequence[str], rule: InstructionRule) -> str:
    """Return the text that routes a request.

    Args:
        prompt: what the human wrote: one text, or one for each human turn so far. It equals what `instruction_text`
            gives for a row with these human turns.

    Raises:
        DataError: no prompt, or one that UTF-8 cannot hold.
    """
    turns = [prompt] if isinstance(prompt, str) else list(prompt)
    if not turns:
        raise DataError("no human turn to route by: give at least one prompt")
    return _joined(turns, rule, "the prompt")


def instruction_hash(text: str) -> str:
    """Return 32 hexadecimal digits (the first half of SHA-256) that stand for an instruction in assignment tables."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def check_texts(texts: Iterable[str]) -> None:
    """Raise DataError at the first text that UTF-8 cannot hold, so that no encoder takes it and no file can keep it."""
    for text in texts:
        if (wrong := not_unicode(text)) is not None:
            raise DataError(f"the text {one_line(repr(text))} holds {wrong}; write the character in full")


def _joined(turns: Sequence[str], rule: InstructionRule, name: str) -> str:
    if rule.turns == "first":
        return _clean(turns[0], name)
    return "\n".join(_clean(turn, name) for turn in turns).strip()


def _clean(text: str, name: str) -> str:
    if (wrong := not_unicode(text)) is not None:
        raise DataError(f"{name} holds {wrong}, expected text that UTF-8 can hold: write the character in full")
    return text.replace(IMAGE_TOKEN, "").strip()


def _place(row: Mapping[str, Any]) -> str:
    return f"row with id {one_line(repr(row['id']))}" if "id" in row else "row without an id"
