"""Keys of a recipe about the router, as far as they depend on other keys: which go together, and groups of datasets."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from llava_mocle.adapter import MocleConfig
from llava_mocle.adapter.options import LEARNED_OPTIONS, LEARNED_ROUTERS
from llava_mocle.errors import ConfigError
from llava_mocle.recipe.keys import AdapterArguments, StageArguments
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.recipe.trainer_keys import policies, unused_keys


def check_router_options(recipe: Recipe) -> None:
    """Refuse keys that do nothing with the recipe's adapter, and so were misunderstood, or that contradict each other.

    Raises:
        ConfigError: names the key, its value, and what to do.
    """
    adapter = recipe.adapter
    if recipe.stage.stage != "finetune":
        return
    values = asdict(adapter) | asdict(recipe.stage)
    defaults = {item.name: item.default for group in (AdapterArguments, StageArguments) for item in fields(group)}
    for key in sorted(unused_keys(adapter.adapter)):
        if values[key] != defaults[key]:
            raise ConfigError(
                f"{key} is {values[key]!r}, but adapter {adapter.adapter!r} has no such option; leave it out (as a "
                f"flag: --{key} {_as_flag(defaults[key])}), or set adapter to "
                f"{' or '.join(policies()[key].adapters or ())}"
            )
    if adapter.adapter in LEARNED_ROUTERS:
        MocleConfig(
            router=adapter.adapter,
            universal_expert=False,
            num_experts=adapter.num_experts,
            top_k=adapter.top_k,
            gate_mode=adapter.gate_mode,
            **{key: getattr(adapter, key) for key in LEARNED_OPTIONS},
        )
    if adapter.dataset_groups is not None:
        group_ids(adapter.dataset_groups, [spec.name for spec in recipe.data.dataset_specs()])


def _as_flag(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def group_ids(groups: Any, datasets: Sequence[str]) -> list[int]:
    """The group of each dataset. Groups are counted in the order in which the datasets meet them.

    So a resumed run has the same numbers, in whatever order the recipe names its groups.

    Args:
        groups: group name -> the names of its datasets; or that as JSON.
        datasets: the recipe's, in its order.

    Raises:
        ConfigError: not such a mapping; or a dataset in no group, in two, or not in the recipe.
    """
    if isinstance(groups, str):
        groups = json.loads(groups)
    group_of: dict[str, str] = {}
    for group, names in groups.items() if isinstance(groups, Mapping) else [("", None)]:
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            where = f"dataset_groups: group {group!r} is {names!r}" if group else f"dataset_groups is {groups!r}"
            raise ConfigError(f"{where}, expected the name of each group with a list of its datasets")
        for name in names:
            if name not in datasets:
                raise ConfigError(
                    f"dataset_groups: group {group!r} holds {name!r}, which is no dataset of the recipe; its datasets "
                    f"are {', '.join(datasets)}"
                )
            if name in group_of:
                raise ConfigError(
                    f"dataset_groups: dataset {name!r} is in group {group_of[name]!r} and in {group!r}; leave it in one"
                )
            group_of[name] = group
    missing = [name for name in datasets if name not in group_of]
    if missing:
        raise ConfigError(
            f"dataset_groups: dataset {missing[0]!r} is in no group; put it into one of {', '.join(groups) or 'them'}"
        )
    order = list(dict.fromkeys(group_of[name] for name in datasets))
    return [order.index(group_of[name]) for name in datasets]
