"""The declaration of a comparison: one YAML file, every key declared once and checked before anything runs."""

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import yaml

from llava_mocle.errors import ConfigError
from llava_mocle.experiment.methods import OURS, STANDARD, Method
from llava_mocle.io.paths import looked_for, user_path, why_missing, why_no_file_name
from llava_mocle.recipe.policy import FROM_1, SEED, Policy, Range
from llava_mocle.recipe.policy import free as key

# Whose weights are kept. all; best: of each method, those of the seed with the best validation score, and none of
# ablations; none.
KEEP = ("best", "all", "none")
_DEFAULT_SEEDS = "default"
_KINDS = {int: "a whole number", float: "a number", str: "text", list: "a list", dict: "key: value lines"}
_IN_YAML: dict[Any, type] = {Sequence: list, Mapping: dict}


@dataclass
class EvalDesign:
    """How a trained model is asked."""

    max_new_tokens: int = key(32, "Longest answer in tokens.", numbers=FROM_1)
    batch_size: int = key(32, "Questions answered together.", numbers=FROM_1)


@dataclass
class Design:
    """What is compared, on what, and how often."""

    recipe: str = key(
        None,
        "The recipe that all runs share: base, datasets (each with data_path and eval_data_path), steps, rates, and "
        "MoCLE's settings. The methods change its adapter keys.",
        path=True,
    )
    output_dir: str = key(None, "The folder of the experiment: every run, the clusters, the report.", path=True)
    domains: Sequence[str] | None = key(None, "Names of the recipe's datasets that take part; none: all.")
    test: Mapping[str, str] | None = key(
        None,
        "domain: FILE lines, the rows that are reported. The rows of eval_data_path are for choosing. None: the report "
        "is of the validation rows, and says so.",
    )
    held_out: Mapping[str, str] | None = key(
        None, "domain: FILE lines, rows with instructions that are not in training (zero-shot); reported apart."
    )
    methods: Sequence[str] | Mapping[str, Any] = key(
        tuple(STANDARD),
        "A list of standard methods; or name: keys lines, where the keys are recipe keys of a method of your own, and "
        "nothing for a standard one.",
    )
    fairness: str = key(
        "exposure",
        "What is equal besides the samples seen of each domain; exposure: nothing more; activated: the adapter's "
        "parameters that a sample passes through; total: the adapter's parameters.",
        choices=("exposure", "activated", "total"),
    )
    single_domain_steps: str = key(
        "share",
        "How long a single-domain run trains; share: it sees as many samples of its domain as the others do; all: it "
        "takes as many steps as they do.",
        choices=("share", "all"),
    )
    seeds: int | Sequence[int] | Mapping[str, Any] = key(
        3, "A number n (0 to n - 1), a list, or method: seeds lines with a line `default` for the others."
    )
    learning_rates: Sequence[float] | None = key(
        None,
        "Values of learning_rate among which every method's is chosen, by validation with its first seed. None, or one "
        "value: no search.",
    )
    ablations: Mapping[str, Any] | None = key(
        None,
        "name: {key: [values]}, or name: {label: {key: value}} lines: MoCLE with one thing changed.",
    )
    ablation_seeds: int | Sequence[int] = key(2, "The seeds of every ablation: a number n (0 to n - 1), or a list.")
    eval: EvalDesign = field(default_factory=EvalDesign)

    def standard_and_own(self) -> list[Method]:
        """The methods that are compared, in their order."""
        given = self.methods if isinstance(self.methods, Mapping) else dict.fromkeys(self.methods)
        return [
            STANDARD[name] if not keys and name in STANDARD else Method(name, "declared in the YAML", dict(keys or {}))
            for name, keys in given.items()
        ]

    def seeds_of(self, method: str) -> list[int]:
        """The seeds of a method, in their order."""
        if isinstance(self.seeds, Mapping):
            return seed_list(self.seeds.get(method, self.seeds.get(_DEFAULT_SEEDS, 3)))
        return seed_list(self.seeds)

    def variants_of(self, ablation: str) -> dict[str, dict[str, Any]]:
        """Label -> recipe keys of the values that an ablation tries."""
        declared = (self.ablations or {})[ablation]
        if any(isinstance(values, Mapping) for values in declared.values()):
            return {str(label): dict(keys) for label, keys in declared.items()}
        ((name, values),) = declared.items()
        return {_label(value): {name: value} for value in values}


def _label(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def seed_list(seeds: int | Sequence[int]) -> list[int]:
    """The seeds that a number or a list stands for."""
    return list(range(seeds)) if isinstance(seeds, int) else list(seeds)


def read_design(path: str | Path) -> Design:
    """Read and check the YAML of a comparison. What the recipe says is checked where the runs are made.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, a value of the wrong type, an unknown method, or one that
            does not fit the others; names the key, the value and what to do.
    """
    place = Path(user_path(path))
    if (trouble := why_missing(place)) is not None:
        raise ConfigError(
            f"{place}: no such file{looked_for(place)} ({trouble}); `llava-mocle compare --help` shows one"
        )
    try:
        values = yaml.safe_load(place.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place}: not a YAML file: {' '.join(str(error).split())}") from error
    design = _made(Design, values, str(place))
    for name in ("recipe", "output_dir"):
        if not getattr(design, name):
            raise ConfigError(f"{place}: {name} is missing; `llava-mocle compare --help` says what it is")
    _check_methods(design, str(place))
    _check_seeds(design, str(place))
    _check_rates(design, str(place))
    _check_ablations(design, str(place))
    return design


def _made(group: type, values: Any, place: str) -> Any:
    """A dataclass of a mapping whose keys are its fields."""
    if not isinstance(values, dict):
        raise ConfigError(f"{place}: found {type(values).__name__}, expected `key: value` lines")
    known = {item.name: item for item in dataclasses.fields(group)}
    hints = typing.get_type_hints(group)
    made = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0)
            raise ConfigError(f"{place}: unknown key {name!r}; did you mean {near[0]!r}?")
        if dataclasses.is_dataclass(hints[name]):
            made[name] = _made(typing.cast(type, hints[name]), value, f"{place}: {name}")
        else:
            made[name] = _checked(known[name], hints[name], value, f"{place}: {name}")
    return group(**made)


def _checked(item: "dataclasses.Field[Any]", hint: Any, value: Any, place: str) -> Any:
    union = typing.get_origin(hint) in (typing.Union, UnionType)
    origins = [typing.get_origin(kind) or kind for kind in (typing.get_args(hint) if union else (hint,))]
    kinds = [_IN_YAML.get(kind, kind) for kind in origins]
    fits = any(isinstance(value, kind) for kind in kinds) and not isinstance(value, bool)
    expected = " or ".join(_KINDS[kind] for kind in kinds if kind is not NoneType)
    if not fits:
        raise ConfigError(f"{place} is {value!r}, expected {expected}")
    choices = item.metadata.get("choices")
    if choices and value not in choices:
        raise ConfigError(f"{place} is {value!r}, expected one of {', '.join(choices)}")
    policy: Policy = item.metadata["policy"]
    if policy.numbers is not None and not policy.numbers.holds(value):
        raise ConfigError(f"{place} is {value!r}, expected {expected} {policy.numbers.words()}")
    return user_path(value) if policy.path and isinstance(value, str) else value


def _check_methods(design: Design, place: str) -> None:
    if not design.methods:
        raise ConfigError(f"{place}: methods is empty; name some of {', '.join(STANDARD)}")
    given = design.methods if isinstance(design.methods, Mapping) else dict.fromkeys(map(str, design.methods))
    for name, keys in given.items():
        if (trouble := why_no_file_name(name)) is not None:
            raise ConfigError(f"{place}: methods: the name {name!r} {trouble}; it becomes a folder's")
        if keys is not None and not isinstance(keys, Mapping):
            raise ConfigError(f"{place}: methods: {name} is {keys!r}, expected recipe keys, or nothing")
        if not keys and name not in STANDARD:
            raise ConfigError(
                f"{place}: methods: {name!r} is no standard method; those are {', '.join(STANDARD)}. One of your own "
                f"needs the recipe keys that it sets: `{name}: {{adapter: mocle, ...}}`"
            )
        if keys and name in STANDARD:
            raise ConfigError(f"{place}: methods: {name!r} is a standard method; give one with other keys another name")


def _check_seeds(design: Design, place: str) -> None:
    names = {method.name for method in design.standard_and_own()}
    declared = {"seeds": design.seeds, "ablation_seeds": design.ablation_seeds}
    if isinstance(design.seeds, Mapping):
        for name in design.seeds:
            if name not in names and name != _DEFAULT_SEEDS:
                raise ConfigError(
                    f"{place}: seeds names {name!r}, which is not among the methods ({', '.join(sorted(names))}) nor "
                    f"`{_DEFAULT_SEEDS}`"
                )
        declared = {f"seeds: {name}": value for name, value in design.seeds.items()}
        declared["ablation_seeds"] = design.ablation_seeds
    for name, value in declared.items():
        good = _is_whole(value, FROM_1) or (
            isinstance(value, list) and value and all(_is_whole(seed, SEED) for seed in value)
        )
        if not good or (isinstance(value, list) and len(set(value)) < len(value)):
            raise ConfigError(
                f"{place}: {name} is {value!r}, expected a number from 1, or a list of different whole numbers from 0"
            )


def _is_whole(value: Any, numbers: Range) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and numbers.holds(value)


def _check_rates(design: Design, place: str) -> None:
    if design.learning_rates is None:
        return
    try:
        rates = [float(rate) for rate in design.learning_rates]  # YAML reads 1e-4 as text
    except (TypeError, ValueError):
        rates = [-1.0]
    if not rates or min(rates) <= 0 or len(set(rates)) < len(rates):
        raise ConfigError(
            f"{place}: learning_rates is {design.learning_rates!r}, expected a list of different numbers above 0"
        )
    design.learning_rates = rates


def _check_ablations(design: Design, place: str) -> None:
    for name, declared in (design.ablations or {}).items():
        where = f"{place}: ablations: {name}"
        if (trouble := why_no_file_name(name)) is not None:
            raise ConfigError(f"{where}: the name {trouble}; it becomes a folder's")
        if OURS not in [method.name for method in design.standard_and_own()]:
            raise ConfigError(f"{where}: ablations change {OURS}, which is not among the methods; add it")
        is_keys = isinstance(declared, Mapping) and all(isinstance(values, Mapping) for values in declared.values())
        is_list = isinstance(declared, Mapping) and [type(values) for values in declared.values()] == [list]
        if not declared or not (is_keys or is_list):
            raise ConfigError(
                f"{where} is {declared!r}, expected {{key: [values]}} with one key, or {{label: {{key: value}}}}"
            )
        if any(isinstance(label, bool) for label in declared):
            raise ConfigError(
                f"{where}: a label is true or false to YAML, which reads a bare on, off, yes or no so; quote it"
            )
        for label in design.variants_of(name):
            if (trouble := why_no_file_name(label)) is not None:
                raise ConfigError(f"{where}: the value {label!r} {trouble}; it becomes a folder's. Give it a label")
