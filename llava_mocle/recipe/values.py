"""The values of recipe keys: of the right type, `none`, or one of two keys that exclude each other."""

import argparse
import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.keys import GROUPS, OWN_KEYS
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments, policies

_NONE_WORDS = ("", "none", "null")
_EXPECTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


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
    """A value as YAML gives it, for `parser.set_defaults`; texts are left to the parser, which converts them.

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
            raise ConfigError(f"{place}: {key} is empty, expected {_kind(key)}; give one, or leave the key out")
        return None
    if action.choices and value not in list(action.choices) and (is_set(value) or not is_optional(key)):
        choices = ", ".join(str(choice) for choice in action.choices if choice is not None)
        hint = '; quote it, as YAML reads a bare no as false: "no"' if value is False and "no" in action.choices else ""
        raise ConfigError(f"{place}: {key} is {value!r}, expected one of {choices}{hint}")
    if not _fits(key, value):
        raise ConfigError(f"{place}: {key} is {value!r}, expected {_kind(key)}")
    return value


def _type_name(key: str) -> str | None:
    """`int`, `float`, `bool` or `str`; None where the field takes several kinds, or `datasets`, which has checks."""
    hint = _hints()[key]
    kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind is not types.NoneType]
    name = kinds[0].__name__ if len(kinds) == 1 and kinds[0] in (int, float, bool, str) else None
    # Trainer says `str` of some fields that it takes lists for.
    return None if key == "datasets" or (name == "str" and key not in OWN_KEYS) else name


def _fits(key: str, value: Any) -> bool:
    name = _type_name(key)
    if name is None or isinstance(value, str):
        return True
    if name == "bool":
        return isinstance(value, bool) or value in (0, 1)
    if name == "str" or isinstance(value, bool):
        return False
    return isinstance(value, int) or (name == "float" and isinstance(value, float))


def _kind(key: str) -> str:
    return _EXPECTED.get(_type_name(key) or "", "a value")


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
