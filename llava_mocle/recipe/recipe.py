"""One YAML file -> typed arguments. Its keys are dataclass fields; every key is also a command-line flag."""

import argparse
import dataclasses
import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser
from transformers.utils import is_torch_tf32_available

from llava_mocle.errors import ConfigError
from llava_mocle.io.files import write_text
from llava_mocle.io.paths import looked_for, user_path, why_missing
from llava_mocle.io.secrets import without_secrets
from llava_mocle.recipe.keys import GROUPS, OWN_KEYS, KeyGroups, StageArguments
from llava_mocle.recipe.llava_flags import translate, translate_keys
from llava_mocle.recipe.remarks import remark
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments, policies
from llava_mocle.recipe.values import allow_none, checked_value, drop_replaced, drop_unused, normalized, refuse_excluded

logger = logging.getLogger(__name__)


class _Parser(HfArgumentParser):
    def add_argument(self, *names: Any, policy: Any = None, **options: Any) -> argparse.Action:
        # A field's metadata arrives here; its policy is no business of argparse.
        return super().add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `llava-mocle train --help` lists the keys")


@dataclass
class Recipe(KeyGroups):
    """A resolved recipe: defaults, then the YAML, then the overrides. Its own keys stand in their groups.

    Attributes:
        trainer: the keys of `MocleTrainingArguments` that are not ours.
        source: the YAML's name.
        given: the keys that the YAML or the overrides set; all others have their defaults.
    """

    trainer: dict[str, Any] = field(repr=False)  # it may hold a secret
    source: str | None = None
    given: frozenset[str] = frozenset()

    def training_arguments(self, **changes: Any) -> MocleTrainingArguments:
        """Build the arguments `Trainer` takes. This initialises the device, so only training calls it.

        Raises:
            ConfigError: transformers, accelerate or DeepSpeed does not take a value; names the key.
        """
        import torch

        values = self.trainer | dataclasses.asdict(self.stage) | changes
        if not torch.cuda.is_available():
            values["use_cpu"] = True
        if values.get("tf32") and not is_torch_tf32_available():
            logger.warning("tf32 does nothing on this machine: no device here has it")
            values["tf32"] = None
        try:
            return MocleTrainingArguments(**values)
        except Exception as error:  # whatever a library raises, it is a value that it does not take
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"{self.source or 'command line'}: {_culprit(values, reason)}{reason}") from error

    def as_dict(self) -> dict[str, Any]:
        """All our keys, and Trainer's keys that differ from their defaults, ready for `yaml.safe_dump`; no secrets."""
        return _written(self._values())

    def withheld(self) -> list[str]:
        """The keys that hold a secret, which `as_dict` leaves out or masks."""
        written = self.as_dict()
        return [key for key, value in self._values().items() if written.get(key) != value]

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for group in GROUPS:
            values |= dataclasses.asdict(getattr(self, group))
        defaults = trainer_defaults()
        return values | {key: value for key, value in self.trainer.items() if value != defaults[key]}


def _culprit(values: Mapping[str, Any], reason: str) -> str:
    """The key that `MocleTrainingArguments` refuses, for a message that does not name it: without it, all is well."""
    changed = {key: default for key, default in trainer_defaults().items() if values.get(key) != default}
    if any(key in reason for key in changed):
        return ""
    for key, default in changed.items():
        try:
            MocleTrainingArguments(**{**values, key: default})
        except Exception:
            continue
        shown = "" if policies()[key].secret else f" is {without_secrets(values[key])!r}"
        return f"{key}{shown}: "
    return ""


@cache
def _parser() -> _Parser:
    """Gives every key, with its default where none is set. Never changed once it is made."""
    return _make_parser()


def _make_parser() -> _Parser:
    # `StageArguments` comes with `MocleTrainingArguments`, which inherits from it.
    groups = [group for group in GROUPS.values() if not issubclass(MocleTrainingArguments, group)]
    parser = _Parser([*groups, MocleTrainingArguments], allow_abbrev=False)
    allow_none(parser)
    return parser


@cache
def trainer_defaults() -> dict[str, Any]:
    """Field name -> default of every `MocleTrainingArguments` field that is not one of `StageArguments`."""
    parsed = vars(_parser().parse_args([]))
    ours = {item.name for item in dataclasses.fields(StageArguments)}
    names = [item.name for item in dataclasses.fields(MocleTrainingArguments) if item.init]
    return {name: parsed[name] for name in names if name not in ours}


def known_keys() -> list[str]:
    """Every key a recipe may hold."""
    return sorted({*OWN_KEYS, *trainer_defaults()})


# How much closer a key of transformers must be than one of ours to be offered in its place.
_NEAR_TIE = 0.05


def _nearest(key: str) -> str:
    """The known key that is most like a misspelt one; one of ours where one of transformers is hardly closer."""
    matcher = difflib.SequenceMatcher(b=key)

    def likeness(known: str) -> float:
        matcher.set_seq1(known)
        return matcher.ratio() + (_NEAR_TIE if known in OWN_KEYS else 0)

    taken = [known for known in known_keys() if not policies()[known].refused]
    return f"did you mean {max(taken, key=likeness)!r}?"


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a recipe's keys and check that each is known.

    Raises:
        ConfigError: no such file, not YAML, not a mapping, or an unknown key (names the nearest known one).
    """
    path = Path(user_path(path))
    if (trouble := why_missing(path)) is not None:
        raise ConfigError(
            f"{path}: no such recipe{looked_for(path)} ({trouble}); `llava-mocle recipes` lists those that ship"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {error.strerror}; expected a YAML file") from error
    except yaml.MarkedYAMLError as error:  # whose text quotes the file, which may hold a secret
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}: not a YAML recipe: {error.problem}{line}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML recipe: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: found {type(values).__name__}, expected `key: value` lines")
    return _known(values, path)


def _known(values: Mapping[str, Any], place: str | Path) -> dict[str, Any]:
    """The keys by our names, each of which is known."""
    values = translate_keys(place, dict(values))
    known = set(known_keys())
    for key in values:
        if key not in known:
            raise ConfigError(f"{place}: unknown key {key!r}; {_nearest(str(key))}")
    return values


def load_recipe(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Resolve a recipe.

    Args:
        path: the YAML file; None takes everything from `overrides`.
        overrides: command-line words, such as `["--lora_r", "16"]`; they win over the file.

    Raises:
        ConfigError: an unknown key or a value of the wrong type, with the key, the value and what was expected.
    """
    return _resolved(read_yaml(path) if path is not None else {}, None if path is None else str(path), overrides)


def recipe_of(values: Mapping[str, Any], place: str = "recipe") -> Recipe:
    """Resolve the keys of a recipe that is in no file; they are checked as those of a file are.

    Args:
        place: what gave the keys, for messages.

    Raises:
        ConfigError: as `load_recipe`.
    """
    return _resolved(_known(values, place), place)


def _resolved(values: dict[str, Any], source: str | None, overrides: Sequence[str] = ()) -> Recipe:
    overrides = translate(overrides)
    flags = _given_flags(overrides)
    refuse_excluded("command line", flags)
    parser = _parser()
    values = {key: checked_value(parser, str(source), key, value) for key, value in values.items()}
    refuse_excluded(str(source), values)
    drop_replaced(values, flags)
    if unused := drop_unused(values, flags):
        remark(f"{source}: left out, as --adapter {flags['adapter']} makes no use of it: {', '.join(unused)}")
    # Text goes through argparse's own conversion (YAML reads 1e-4 as text); other values stay as they are.
    words = [f"--{key}={value}" for key, value in values.items() if isinstance(value, str)]
    others = {key: value for key, value in values.items() if not isinstance(value, str)}
    parsed = vars(parser.parse_args([*words, *overrides], argparse.Namespace(**others)))
    parsed = {key: normalized("command line" if key in flags else str(source), key, parsed[key]) for key in parsed}
    made = {
        name: group(**{item.name: parsed[item.name] for item in dataclasses.fields(group)})
        for name, group in GROUPS.items()
    }
    if made["data"].datasets or made["data"].data_path:
        made["data"].dataset_specs()  # raises where an entry is wrong
    trainer = {key: parsed[key] for key in trainer_defaults()}
    return Recipe(**made, trainer=trainer, source=source, given=frozenset({*values, *flags}))


@cache
def _parser_of_flags() -> _Parser:
    """Gives the flags of a command line alone, without defaults."""
    parser = _make_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return parser


def _given_flags(overrides: Sequence[str]) -> dict[str, Any]:
    """The values that the command line sets, by key.

    Raises:
        ConfigError: a flag that is no key, or a word that belongs to no flag.
    """
    namespace, unknown = _parser_of_flags().parse_known_args(list(overrides))
    for word in unknown:
        if word.startswith("--"):
            flag = word.split("=")[0]  # what follows may be a secret
            raise ConfigError(f"unknown flag {flag!r}; {_nearest(flag[2:].replace('-', '_'))}")
    if unknown:
        raise ConfigError(f"unexpected words on the command line: {' '.join(unknown)}")
    return vars(namespace)


def write_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write `recipe_text` into a file."""
    write_text(path, recipe_text(recipe))


def recipe_text(recipe: Recipe) -> str:
    """A resolved recipe as YAML that `load_recipe` reads back to the same, but for secrets.

    Of Trainer's keys, and of those that say how the clusters were made, it has what the recipe has given, also where
    that is the default: whoever says `eval_strategy: no` switches validation off, and a default does not describe the
    cluster model that the recipe names.
    """
    values = recipe.as_dict()
    for item in dataclasses.fields(recipe.cluster):
        at_default = item.name not in recipe.given and values[item.name] == item.default
        if policies()[item.name].clustering and at_default:
            del values[item.name]
    given = {key: value for key, value in recipe.trainer.items() if key in recipe.given}
    return yaml.safe_dump(values | _written(given), sort_keys=False)


def _written(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keys with their values as a file may have them: no secrets."""
    return {key: without_secrets(value) for key, value in values.items() if not policies()[key].secret}
