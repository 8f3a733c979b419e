"""The values of recipe keys: of the right type, `none`, or one of two keys that exclude each other."""

import argparse
import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Any

from llava_mocle.data.template_names import ALIASES
from llava_mocle.errors import ConfigError
from llava_mocle.io.paths import user_path
from llava_mocle.io.secrets import without_secrets
from llava_mocle.io.text import not_unicode
from llava_mocle.recipe.keys import GROUPS, OWN_KEYS, PATH_FIELDS
from llava_mocle.recipe.policy import Range
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments, policies, unused_keys

_NONE_WORDS = ("", "none", "null")
_EXPECTED: dict[Any, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "key: value lines",
    list: "a list",
}  # fmt: skip
# Keys that the recipe gives as a list or a mapping, and the command line as JSON.
_FROM_JSON: dict[str, Any] = {"datasets": list, "dataset_groups": dict}
# More than any count of a run, and what every library's whole numbers hold.
_MOST = 2**31 - 1


@cache
def _fields() -> Mapping[str, "dataclasses.Field[Any]"]:
    """Key -> its field."""
    groups = (MocleTrainingArguments, *GROUPS.values())
    return {item.name: item for group in groups for item in dataclasses.fields(group)}


@cache
def _hints() -> Mapping[str, Any]:
    """Key -> its field's type."""
    found: dict[str, Any] = {}
    for group in (MocleTrainingArguments, *GROUPS.values()):
        found |= typing.get_type_hints(group)
    return found


def is_optional(key: str) -> bool:
    """Whether `none` unsets the key."""
    return types.NoneType in typing.get_args(_hints().get(key))


def allow_none(parser: argparse.ArgumentParser) -> None:
    """Have the parser take `none`, `null` and nothing at all as None wherever the field may be None."""
    for action in parser._actions:
        if action.type is not None and is_optional(action.dest):
            action.type = _or_none(typing.cast(Callable[[str], Any], action.type))
            if action.choices is not None:
                action.choices = [*action.choices, None]


def _or_none(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    @functools.wraps(convert)
    def converted(text: str) -> Any:
        return convert(text) if is_set(text) else None

    return converted


def checked_value(parser: argparse.ArgumentParser, place: str, key: str, value: Any) -> Any:
    """A value as YAML gives it; texts are left to the parser, which converts them.

    Args:
        place: the recipe's name, for messages.

    Raises:
        ConfigError: of another type than the key's field, or none of its choices.
    """
    action = next(action for action in parser._actions if action.dest == key)
    if key == "lora_target_modules" and isinstance(value, list) and all(isinstance(name, str) for name in value):
        return ",".join(value)
    if value is None:
        if not is_optional(key):
            raise ConfigError(f"{place}: {key} is empty, expected {_expected(key)}; give one, or leave the key out")
        return None
    if action.choices and value not in list(action.choices) and (is_set(value) or not is_optional(key)):
        choices = ", ".join(str(choice) for choice in action.choices if choice is not None)
        hint = '; quote it, as YAML reads a bare no as false: "no"' if value is False and "no" in action.choices else ""
        raise ConfigError(f"{place}: {key} is {value!r}, expected one of {choices}{hint}")
    off = policies()[key].refused and not value  # whatever says "off" in a key that is not here
    if not off and not _fits(key, value):
        raise ConfigError(f"{place}: {key} is {_shown(key, value)}, expected {_expected(key)}")
    return value


def _shown(key: str, value: Any) -> str:
    """A value for a message, without secrets."""
    return "a secret" if policies()[key].secret else repr(without_secrets(value))


def normalized(place: str, key: str, value: Any) -> Any:
    """A value of the right type as the recipe keeps it: paths without `~`, JSON read, LLaVA's `v1` by name.

    Args:
        place: what gave the value, for messages.

    Raises:
        ConfigError: a number out of its range, text that UTF-8 cannot hold, or text where some is needed and none is.
    """
    policy = policies()[key]
    if key == "datasets":
        return _normalized_datasets(place, value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_number(place, key, value, policy.numbers or Range())
        return float(value) if _kinds(key) == (float,) else value
    _check_texts(place, key, value)
    if not isinstance(value, str):
        return value
    if key in OWN_KEYS and not value.strip() and not is_optional(key):
        raise ConfigError(f"{place}: {key} is empty, expected {_expected(key)}; give one, or leave the key out")
    if dict in map(_origin, _kinds(key)) and not policy.path and value.strip():
        _check_json_object(place, key, value)
        if key in _FROM_JSON:
            return json.loads(value)  # a recipe and a flag that say the same are the same
    return ALIASES.get(value, value) if key == "version" else user_path(value) if policy.path else value


def _normalized_datasets(place: str, value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{place}: datasets is not JSON ({error}); as text it is a JSON list") from error
    _check_texts(place, "datasets", value)
    if not isinstance(value, list):
        return value  # `dataset_specs` says what is wrong with it
    return [
        {key: user_path(item) if key in PATH_FIELDS and isinstance(item, str) else item for key, item in entry.items()}
        if isinstance(entry, dict)
        else entry
        for entry in value
    ]


def _check_json_object(place: str, key: str, text: str) -> None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{place}: {key} is {text!r}, expected key: value lines, or JSON as text ({error})"
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(f"{place}: {key} is {text!r}, expected a JSON object")


def _check_number(place: str, key: str, value: float, numbers: Range) -> None:
    whole = int in _kinds(key) and float not in _kinds(key)
    if numbers.high is None:
        numbers = dataclasses.replace(numbers, high=_MOST)
    if not math.isfinite(value) or not numbers.holds(value):
        limits = f" {words}" if (words := numbers.words()) else ""
        raise ConfigError(f"{place}: {key} is {value}, expected {_EXPECTED[int if whole else float]}{limits}")


def _check_texts(place: str, key: str, value: Any) -> None:
    """Refuse text that no file and no tokenizer takes, wherever in a value it is."""
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    for part in parts:
        _check_texts(place, key, part)
    if not isinstance(value, str):
        return
    trouble = "a NUL character" if "\0" in value else not_unicode(value)
    if trouble is not None:
        raise ConfigError(f"{place}: {key} holds {trouble}: {_shown(key, value)}; expected text that a file can hold")


@cache
def _kinds(key: str) -> tuple[Any, ...]:
    """The types that the key's field takes, without None."""
    if key == "report_to":
        return str, list[str]  # `Trainer` says `str`, and takes a list
    if key in _FROM_JSON:
        return _FROM_JSON[key], str
    hint = _hints()[key]
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return tuple(kind for kind in (typing.get_args(hint) if union else (hint,)) if kind is not types.NoneType)


def _origin(kind: Any) -> Any:
    return typing.get_origin(kind) or kind


def _fits(key: str, value: Any) -> bool:
    """Whether a value is of a type that the key takes; text is left to the parser wherever it converts text."""
    converts = any(kind in (int, float, bool) for kind in _kinds(key))
    return (isinstance(value, str) and converts) or any(_is_a(kind, value) for kind in _kinds(key))


def _is_a(kind: Any, value: Any) -> bool:
    origin, inside = _origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return any(value is choice for choice in inside)
    if origin is bool:
        return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))
    if origin in (int, float):
        return isinstance(value, (int, origin)) and not isinstance(value, bool)
    if origin is list:
        return isinstance(value, list) and all(_is_a(kind, item) for item in value for kind in inside)
    if issubclass(origin, Enum):
        return isinstance(value, str)
    return isinstance(value, origin)


def _expected(key: str) -> str:
    named = dict.fromkeys(_EXPECTED[kind] for kind in map(_origin, _kinds(key)) if kind in _EXPECTED)
    return " or ".join(named) or "a value"


def refuse_excluded(place: str, values: Mapping[str, Any]) -> None:
    """Refuse two keys for one setting in one place; one that has its default says nothing.

    Raises:
        ConfigError: names both.
    """
    for one, other in _pairs():
        if all(is_set(values.get(key)) and not _is_default(key, values[key]) for key in (one, other)):
            raise ConfigError(
                f"{place}: both {one} ({values[one]!r}) and {other} ({values[other]!r}) are set; keep one of them"
            )


def drop_replaced(values: dict[str, Any], flags: Mapping[str, Any]) -> None:
    """Remove from a recipe's values the keys that a flag replaces, and what belongs to them."""
    for pair in _pairs():
        for given, replaced in (pair, pair[::-1]):
            if is_set(flags.get(given)):
                values.pop(replaced, None)
                for key, policy in policies().items():
                    if policy.belongs_to == replaced:
                        values.pop(key, None)


def drop_unused(values: dict[str, Any], flags: Mapping[str, Any]) -> list[str]:
    """Remove from a recipe's values the keys that say nothing to the adapter that a flag puts in place of the recipe's.

    Returns:
        those that had another value than their default.
    """
    own, asked = values.get("adapter", _fields()["adapter"].default), flags.get("adapter")
    if asked in (None, own):
        return []
    dropped = {key: values.pop(key) for key in unused_keys(asked) & values.keys()}
    return sorted(key for key, value in dropped.items() if is_set(value) and not _is_default(key, value))


@cache
def _pairs() -> tuple[tuple[str, str], ...]:
    """The keys of which only one may be set."""
    return tuple((key, policy.excludes) for key, policy in policies().items() if policy.excludes)


def _is_default(key: str, value: Any) -> bool:
    default = _fields()[key].default
    return value == default or str(value) == str(default)


def is_set(value: Any) -> bool:
    """False of None, and of the words that unset a key."""
    return value is not None and not (isinstance(value, str) and value.strip().lower() in _NONE_WORDS)
