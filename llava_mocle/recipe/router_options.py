"""Keys of a recipe about the router, as far as they depend on other keys: which go together, and groups of datasets."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.keys import AdapterArguments
from llava_mocle.recipe.recipe import Recipe

# What only adapters that route by cluster or dataset have, and what would be misunderstood if it did nothing.
_OPTIONS = ("gates", "gate_init", "train_cluster_embedding")
_ADAPTERS = ("mocle", "cluster", "dataset")


def check_router_options(recipe: Recipe) -> None:
    """Refuse keys about the router that would do nothing with the recipe's adapter, and groups that do not fit.

    Raises:
        ConfigError: names the key, its value, and what to do.
    """
    adapter = recipe.adapter
    defaults = {item.name: item.default for item in fields(AdapterArguments)}
    for key in () if adapter.adapter in _ADAPTERS else _OPTIONS:
        if getattr(adapter, key) != defaults[key]:
            raise ConfigError(
                f"{key} is {getattr(adapter, key)!r} with adapter {adapter.adapter!r}, which does not route by cluster "
                f"or dataset; leave {key} out"
            )
    if adapter.dataset_groups is None:
        return
    if adapter.adapter != "dataset":
        raise ConfigError(
            f"dataset_groups goes with adapter 'dataset', and adapter is {adapter.adapter!r}; leave dataset_groups out "
            "(as a flag: --dataset_groups none), or set adapter to dataset"
        )
    group_ids(adapter.dataset_groups, [spec.name for spec in recipe.data.dataset_specs()])


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
