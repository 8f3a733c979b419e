"""The options of a router that the paper varies in its ablations, or does not have: what goes together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llava_mocle.errors import ConfigError

if TYPE_CHECKING:
    from llava_mocle.adapter.config import MocleConfig

GATES = ("learned", "fixed")
GATE_INITS = ("random", "balanced")


def check_options(config: MocleConfig) -> None:
    """Refuse values that there are not, and combinations that make no sense.

    K is checked where it is known: it may still have to be read from the centroids.

    Raises:
        ConfigError: names the fields, their values, and what to set.
    """
    for name, choices in (("gates", GATES), ("gate_init", GATE_INITS)):
        if getattr(config, name) not in choices:
            raise ConfigError(f"{name}={getattr(config, name)!r} is unknown; choose one of {', '.join(choices)}.")
    if not config.train_cluster_embedding and (not config.has_gates_of_ids or config.gates == "fixed"):
        reason = "gates='fixed'" if config.has_gates_of_ids else f"router={config.router!r}"
        raise ConfigError(f"train_cluster_embedding=False, but {reason} has no cluster embedding; leave it out.")
    if config.gate_init == "balanced" and config.router != "cluster":
        raise ConfigError(
            f"gate_init='balanced' groups the clusters by their centroids, which router={config.router!r} lacks; use "
            "router='cluster' or gate_init='random'."
        )
    _check_groups(config)
    if config.gates == "fixed":
        _check_fixed(config)


def _check_groups(config: MocleConfig) -> None:
    groups = config.dataset_groups
    if groups is None:
        return
    if config.router != "dataset":
        raise ConfigError(f"dataset_groups={groups!r} goes with router='dataset', but router={config.router!r}.")
    whole = isinstance(groups, list) and all(type(group) is int for group in groups)
    if not whole or sorted(set(groups)) != list(range(len(set(groups)))):
        raise ConfigError(
            f"dataset_groups={groups!r} must be a list with the group of each dataset, whose groups are 0, 1, ... "
            "without a gap."
        )
    if len(groups) != config.num_clusters:
        raise ConfigError(
            f"dataset_groups={groups!r} has {len(groups)} entries, but num_clusters={config.num_clusters}: give one "
            "for each dataset."
        )


def _check_fixed(config: MocleConfig) -> None:
    if not config.has_gates_of_ids:
        raise ConfigError(
            f"gates='fixed' takes the id of a cluster or dataset as that of its expert, but router={config.router!r} "
            "has no such ids; use router='cluster' or 'dataset'."
        )
    for name, expected, why in (
        ("universal_expert", False, "the one expert has weight 1, which leaves nothing over"),
        ("top_k", 1, "a sample has one expert"),
        ("gate_init", "random", "there are no gates to start"),
        ("gate_mode", "paper", "there are no gates to apply"),
    ):
        if getattr(config, name) != expected:
            raise ConfigError(f"{name}={getattr(config, name)!r} with gates='fixed': {why}; set {name}={expected!r}.")
    if config.num_clusters is not None and config.num_experts != config.num_groups:
        what = "cluster" if config.router == "cluster" else "dataset" if config.dataset_groups is None else "group"
        raise ConfigError(
            f"gates='fixed' needs one expert for each {what}, but num_experts={config.num_experts} and there are "
            f"{config.num_groups}; set num_experts={config.num_groups}."
        )
