"""Rows, cluster ids and datasets of a recipe, all validated before the first step."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import PartialState

from llava_mocle.clustering import ClusterModel
from llava_mocle.clustering.assign import read_assignments, route_texts
from llava_mocle.data.dataset import LlavaDataset
from llava_mocle.data.mixture import Mixture
from llava_mocle.errors import ConfigError
from llava_mocle.model.load import LoadedModel
from llava_mocle.training.recipe import Recipe

logger = logging.getLogger(__name__)

ASSIGNMENTS_FILE = "assignments.parquet"


@dataclass
class TrainingData:
    """What a run trains and validates on."""

    train: LlavaDataset
    validation: LlavaDataset | None
    dataset_names: list[str]
    cluster_model: ClusterModel | None


def needs_clusters(recipe: Recipe) -> bool:
    """Whether this recipe routes by cluster."""
    return recipe.stage.stage == "finetune" and recipe.adapter.adapter in ("mocle", "cluster")


def prepare_data(recipe: Recipe, loaded: LoadedModel) -> TrainingData:
    """Read and check every row, join images and cluster ids.

    A baseline carries cluster ids too when the recipe's cluster model is there, so that its validation loss is broken
    down in the same way.

    Raises:
        UserError: before any step is taken.
    """
    specs = recipe.data.dataset_specs()
    cluster_model = _cluster_model(recipe)
    # One process a machine parses, checks and measures the rows; the others map what it has written.
    with PartialState().local_main_process_first():
        mixture = Mixture.load(specs)
        train = _dataset(recipe, loaded, mixture, _ids_of_training(recipe, mixture, cluster_model))
        held_out = Mixture.load(specs, split="eval") if any(spec.eval_data_path for spec in specs) else None
    validation = None
    if held_out is not None:
        validation = _dataset(recipe, loaded, held_out, _ids_of_held_out(held_out, cluster_model))
    return TrainingData(
        train=train,
        validation=validation,
        dataset_names=[spec.name for spec in specs],
        cluster_model=cluster_model,
    )


def _cluster_model(recipe: Recipe) -> ClusterModel | None:
    path = recipe.cluster.cluster_model
    if recipe.stage.stage == "pretrain":
        return None
    if needs_clusters(recipe):
        if not path:
            raise ConfigError(
                f"cluster_model is not set, and adapter {recipe.adapter.adapter!r} routes by cluster; name the folder "
                "that `llava-mocle cluster --recipe ...` writes"
            )
        return ClusterModel.load(path)
    if path and Path(path).is_dir():
        return ClusterModel.load(path)
    return None


def _ids_of_training(
    recipe: Recipe, mixture: Mixture, cluster_model: ClusterModel | None
) -> dict[str, np.ndarray] | None:
    if cluster_model is None:
        return None
    path = recipe.cluster.cluster_assignments or Path(str(recipe.cluster.cluster_model)) / ASSIGNMENTS_FILE
    return read_assignments(path, mixture.rows, cluster_model)


def _ids_of_held_out(mixture: Mixture, cluster_model: ClusterModel | None) -> dict[str, np.ndarray] | None:
    if cluster_model is None:
        return None
    texts = route_texts(mixture.rows, cluster_model.rule)
    return {name: cluster_model.assign(part)[0] for name, part in texts.items()}


def _dataset(
    recipe: Recipe, loaded: LoadedModel, mixture: Mixture, cluster_ids: dict[str, np.ndarray] | None
) -> LlavaDataset:
    data = recipe.data
    return LlavaDataset(
        mixture,
        loaded.tokenizer,
        loaded.image_processor,
        data.version,
        cluster_ids,
        image_token_id=loaded.image_token_id,
        image_tokens_per_image=loaded.image_tokens_per_image,
        max_length=data.model_max_length,
        aspect_ratio=data.image_aspect_ratio,
        corrupt_images=data.corrupt_images,
    )
