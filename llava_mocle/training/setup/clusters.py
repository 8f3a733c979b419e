"""A recipe's clusters: the model that it names, whether that is the one it describes, and the cluster of every row."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from accelerate import PartialState

from llava_mocle.clustering import ClusterModel
from llava_mocle.clustering.assign import assign_rows, ids_by_dataset, read_assignments
from llava_mocle.clustering.cluster_files import ASSIGNMENTS_FILE
from llava_mocle.clustering.encoder import SentenceEncoder
from llava_mocle.data.mixture import Mixture
from llava_mocle.errors import AssetError, ConfigError, UserError
from llava_mocle.recipe.keys import ClusterArguments
from llava_mocle.recipe.policy import declared
from llava_mocle.recipe.recipe import Recipe

logger = logging.getLogger(__name__)

T = TypeVar("T")


def needs_clusters(recipe: Recipe) -> bool:
    """Whether this recipe routes by cluster."""
    return recipe.stage.stage == "finetune" and recipe.adapter.adapter in ("mocle", "cluster")


def load_clusters(recipe: Recipe) -> ClusterModel | None:
    """The recipe's cluster model; None if the adapter does not route by cluster and there is none.

    Raises:
        ConfigError: it is needed and not named, or was made in another way than the recipe says.
        ClusterModelError: it is needed, and missing or damaged.
    """
    path = recipe.cluster.cluster_model
    if recipe.stage.stage == "pretrain":
        return None
    if needs_clusters(recipe):
        return cluster_model_as_said(recipe, PartialState().device)
    if path and Path(path).is_dir():
        return _or_without(recipe, lambda: cluster_model_as_said(recipe, PartialState().device))
    return None


def assignments_path(recipe: Recipe) -> Path:
    """The rows' assignment table."""
    return Path(recipe.cluster.cluster_assignments or Path(str(recipe.cluster.cluster_model)) / ASSIGNMENTS_FILE)


def training_ids(recipe: Recipe, mixture: Mixture, model: ClusterModel | None) -> dict[str, np.ndarray] | None:
    """Dataset -> the cluster of each of its rows, from the assignment table; None where none chooses an expert.

    Raises:
        UserError: as `read_assignments`.
    """
    if model is None or not needs_clusters(recipe):
        return None
    return read_assignments(assignments_path(recipe), mixture.rows, model)


def held_out_ids(recipe: Recipe, mixture: Mixture, model: ClusterModel | None) -> dict[str, np.ndarray] | None:
    """Dataset -> the cluster of each of its held-out rows, for the breakdown of the validation loss.

    Raises:
        UserError: the adapter routes by cluster, and the encoder is missing or another one.
    """
    if model is None:
        return None

    def assign() -> dict[str, np.ndarray]:
        rows = {name: part for name, part in mixture.rows.items() if len(part)}
        table = assign_rows(model, rows, progress=False)
        model.held_out = table  # checkpoints carry it
        return dict.fromkeys(mixture.rows, np.empty(0, dtype=np.int64)) | ids_by_dataset(table)

    return assign() if needs_clusters(recipe) else _or_without(recipe, assign)


def _or_without(recipe: Recipe, function: Callable[[], T]) -> T | None:
    """Call `function` for an adapter that can do without its result: an error becomes a warning, and None."""
    try:
        return function()
    except UserError as error:
        logger.warning(
            "adapter %r does not route by cluster, so training goes on without the validation loss a cluster: %s",
            recipe.adapter.adapter, error,
        )  # fmt: skip
        return None


def cluster_model_as_said(recipe: Recipe, device: torch.device | None = None, encoder: bool = True) -> ClusterModel:
    """The cluster model that the recipe names, made as the recipe says. Its encoder is not loaded.

    Args:
        device: of an encoder that it loads later: this rank's own, or the CPU under use_cpu.
        encoder: whether to compare an encoder that the recipe names, for which a hub may be asked.

    Raises:
        ConfigError: none is named, or it was made in another way.
        ClusterModelError: it is missing or damaged.
    """
    path = recipe.cluster.cluster_model
    if not path:
        raise ConfigError(
            f"cluster_model is not set, and adapter {recipe.adapter.adapter!r} routes by cluster; name the folder "
            "that `llava-mocle cluster --recipe ...` writes"
        )
    model = ClusterModel.load(path, device=device)
    if recipe.cluster.cluster_assignments:
        model.knows(recipe.cluster.cluster_assignments)
    for key, policy in declared(ClusterArguments).items():
        if policy.clustering and key in recipe.given:
            asked, found = getattr(recipe.cluster, key), getattr(model.config, policy.clustering)
            if key == "cluster_encoder" and (not encoder or asked == found or _is_its_encoder(asked, model)):
                continue
            if asked != found:
                raise ConfigError(
                    f"{key} is {asked!r}, but the cluster model {path} was made with {found!r}; set {key} to "
                    f"{found!r}, name another folder as cluster_model, or replace this one: "
                    "`llava-mocle cluster --recipe ... --overwrite`"
                )
    return model


def _is_its_encoder(name: str, model: ClusterModel) -> bool:
    """Whether an encoder of another name has the model's weights, which then uses it; True if it is not here."""
    try:
        return model.use_encoder(SentenceEncoder(name, PartialState().device))
    except AssetError:
        logger.warning("cluster_encoder %r is not here, so it cannot be compared with the cluster model's", name)
        return True
