"""The options of a router beside the paper's own numbers: which router has which, and what goes together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llava_mocle.errors import ConfigError

if TYPE_CHECKING:
    from llava_mocle.adapter.config import MocleConfig

# The routers whose gates see what the model sees; and the options that only they have, with their defaults.
LEARNED_ROUTERS = ("token", "sentence")
LEARNED_OPTIONS = {"gate_sharing": "site", "gate_bias": False, "expert_weight": "probability", "balance_loss_weight": 0}
GATE_SHARINGS = ("site", "block", "model")
EXPERT_WEIGHTS = ("probability", "one", "renormalized")
GATES = ("learned", "fixed")
GATE_INITS = ("random", "balanced")


def check_options(config: MocleConfig) -> None:
    """Refuse values that there are not, and combinations that make no sense.

    K is checked where it is known: it may still have to be read from the centroids.

    Raises:
        ConfigError: names the fields, their values, and what to set.
    """
    _check_learned(config)
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


def _check_learned(config: MocleConfig) -> None:
    """The options of the token and sentence routers, and what these routers do not have."""
    if config.router not in LEARNED_ROUTERS:
        for name, default in LEARNED_OPTIONS.items():
            if getattr(config, name) != default:
                raise ConfigError(
                    f"{name}={getattr(config, name)!r} is an option of the token and sentence routers, but router="
                    f"{config.router!r}; leave {name} out."
                )
        return
    for name, expected in (
        ("universal_expert", False), ("gate_mode", "paper"), ("centroids", None), ("num_clusters", None),
        ("cluster_dim", None),
    ):  # fmt: skip
        if getattr(config, name) != expected:
            raise ConfigError(
                f"router={config.router!r} does not take {name}={getattr(config, name)!r}; set {name}={expected!r}."
            )
    for name, choices in (("gate_sharing", GATE_SHARINGS), ("expert_weight", EXPERT_WEIGHTS)):
        if getattr(config, name) not in choices:
            raise ConfigError(f"{name}={getattr(config, name)!r} is unknown; choose one of {', '.join(choices)}.")
    if config.gate_sharing == "model" and config.router == "token":
        raise ConfigError(
            "gate_sharing='model' needs router='sentence': tokens have hidden states of other widths and meanings "
            "at other sites. Choose 'site' or 'block'."
        )
    needed = {"one": 1, "renormalized": 2}.get(config.expert_weight, config.top_k)
    if config.top_k != needed:
        raise ConfigError(f"expert_weight={config.expert_weight!r} needs top_k={needed}, found top_k={config.top_k}.")
    if config.balance_loss_weight < 0:
        raise ConfigError(f"balance_loss_weight={config.balance_loss_weight!r} must be 0 or above.")
    if config.expert_weight == "one" and config.balance_loss_weight == 0:
        raise ConfigError(
            "expert_weight='one' leaves the gates without a gradient but for the balance loss; set "
            "balance_loss_weight above 0, or expert_weight='probability'."
        )


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
