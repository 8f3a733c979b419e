"""One YAML file -> typed arguments. Its keys are dataclass fields; every key is also a command-line flag."""

import dataclasses
import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from llava_mocle.errors import ConfigError
from llava_mocle.training.arguments import (
    GROUPS,
    AdapterArguments,
    ClusterArguments,
    DataArguments,
    ModelArguments,
    StageArguments,
)
from llava_mocle.training.hf_arguments import MocleTrainingArguments


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `llava-mocle train --help` lists the keys")


@dataclass
class Recipe:
    """A resolved recipe: defaults, then the YAML, then the overrides."""

    model: ModelArguments
    data: DataArguments
    cluster: ClusterArguments
    adapter: AdapterArguments
    stage: StageArguments
    trainer: dict[str, Any]
    source: str | None = None

    def training_arguments(self, **changes: Any) -> MocleTrainingArguments:
        """Build the arguments `Trainer` takes. This initialises the device, so only training calls it."""
        import torch

        values = self.trainer | dataclasses.asdict(self.stage) | changes
        if not torch.cuda.is_available():
            values["use_cpu"] = True
        try:
            return MocleTrainingArguments(**values)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{self.source or 'command line'}: {error}") from error

    def as_dict(self) -> dict[str, Any]:
        """All our keys, and Trainer's keys that differ from their defaults, ready for `yaml.safe_dump`."""
        ours: dict[str, Any] = {}
        for group in ("model", "data", "cluster", "adapter", "stage"):
            ours |= dataclasses.asdict(getattr(self, group))
        defaults = _trainer_defaults()
        return ours | {key: value for key, value in self.trainer.items() if value != defaults[key]}


def _make_parser() -> _Parser:
    groups = [ModelArguments, DataArguments, ClusterArguments, AdapterArguments, MocleTrainingArguments]
    return _Parser(groups, allow_abbrev=False)


@cache
def _trainer_defaults() -> dict[str, Any]:
    """Field name -> default of every `MocleTrainingArguments` field that is not one of `StageArguments`."""
    parsed = vars(_make_parser().parse_args([]))
    ours = {item.name for item in dataclasses.fields(StageArguments)}
    names = [item.name for item in dataclasses.fields(MocleTrainingArguments) if item.init]
    return {name: parsed[name] for name in names if name not in ours}


def known_keys() -> list[str]:
    """Every key a recipe may hold."""
    own = [item.name for group in GROUPS.values() for item in dataclasses.fields(group)]
    return sorted({*own, *_trainer_defaults()})


def _nearest(key: str) -> str:
    # Our own keys first: transformers has so many that one of them is always near.
    own = [item.name for group in GROUPS.values() for item in dataclasses.fields(group)]
    close = difflib.get_close_matches(key, own, n=1) or difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.0)
    return f"did you mean {close[0]!r}?"


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a recipe's keys and check that each is known.

    Raises:
        ConfigError: no such file, not YAML, not a mapping, or an unknown key (names the nearest known one).
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such recipe; the ones that ship are in scripts/recipes/") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML recipe: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: found {type(values).__name__}, expected `key: value` lines")
    known = set(known_keys())
    for key in values:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}; {_nearest(str(key))}")
    return values


def load_recipe(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Resolve a recipe.

    Args:
        path: the YAML file; None takes everything from `overrides`.
        overrides: command-line words, such as `["--lora_r", "16"]`; they win over the file.

    Raises:
        ConfigError: an unknown key or a value of the wrong type, with the key, the value and what was expected.
    """
    parser = _make_parser()
    values = read_yaml(path) if path is not None else {}
    if "data_path" in {word.split("=")[0].lstrip("-").replace("-", "_") for word in overrides if word.startswith("--")}:
        values.pop("datasets", None)  # one dataset on the command line replaces the file's list
    for key, value in values.items():
        _check_choice(parser, path, key, value)
    # Text goes through argparse's own conversion (YAML reads 1e-4 as text); other values stay as they are.
    parser.set_defaults(**values)
    namespace, unknown = parser.parse_known_args(list(overrides))
    for word in unknown:
        if word.startswith("--"):
            key = word[2:].split("=")[0].replace("-", "_")
            raise ConfigError(f"unknown flag {word!r}; {_nearest(key)}")
    if unknown:
        raise ConfigError(f"unexpected words on the command line: {' '.join(unknown)}")
    parsed = vars(namespace)
    made = {
        name: group(**{item.name: parsed[item.name] for item in dataclasses.fields(group)})
        for name, group in GROUPS.items()
    }
    trainer = {key: parsed[key] for key in _trainer_defaults()}
    return Recipe(**made, trainer=trainer, source=str(path) if path is not None else None)


def write_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write a resolved recipe as YAML that `load_recipe` reads back to the same."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_text(yaml.safe_dump(recipe.as_dict(), sort_keys=False), encoding="utf-8")
    os.replace(partial, path)


def _check_choice(parser: _Parser, path: str | Path | None, key: str, value: Any) -> None:
    action = next(action for action in parser._actions if action.dest == key)
    if action.choices and value is not None and value not in action.choices:
        raise ConfigError(f"{path}: {key} is {value!r}, expected one of {', '.join(map(str, action.choices))}")
    numeric = action.type in (int, float)
    if numeric and isinstance(value, (list, dict, bool)):
        raise ConfigError(f"{path}: {key} is {value!r}, expected a number")
