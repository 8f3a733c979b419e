"""The options of a router that the paper varies in its ablations, or does not have: what they need, what they exclude."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llava_mocle.errors import ConfigError

if TYPE_CHECKING:
    from llava_mocle.adapter.config import MocleConfig


def check_options(config: MocleConfig) -> None:
    """Refuse values that there are not, and combinations that make no sense.

    Raises:
        ConfigError: names the fields, their values, and what to set.
    """
    if not config.train_cluster_embedding and config.router == "none":
        raise ConfigError("train_cluster_embedding=False, but router='none' has no cluster embedding; leave it out.")
