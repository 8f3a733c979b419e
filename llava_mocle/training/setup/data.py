"""Rows, cluster ids and datasets of a recipe, all validated before the first step."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from llava_mocle.clustering import ClusterModel
from llava_mocle.clustering.instruction import InstructionRule
from llava_mocle.data.instruction_tokens import InstructionTokens
from llava_mocle.data.mixture import Mixture
from llava_mocle.data.row_dataset import RowDataset
from llava_mocle.model.load import LoadedModel
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.training.checkpoints.data_identity import check_data_identity, data_identity
from llava_mocle.training.setup.clusters import held_out_ids, load_clusters, needs_clusters, training_ids
from llava_mocle.training.setup.same_rows import check_same_rows


@dataclass
class TrainingData:
    """What a run trains and validates on.

    Attributes:
        identity: digests of all this, for checkpoints (see `data_identity`).
    """

    train: RowDataset
    validation: RowDataset | None
    dataset_names: list[str]
    cluster_model: ClusterModel | None
    identity: dict[str, Any] = field(default_factory=dict)


def prepare_data(recipe: Recipe, loaded: LoadedModel, checkpoint: Path | None = None) -> TrainingData:
    """Read and check every row, join images and cluster ids, and make sure that all ranks have the same.

    Held-out rows of a baseline get cluster ids too if the recipe's cluster model is there, so that its validation loss
    is broken down in the same way.

    Args:
        recipe: names the rows and the clusters.
        loaded: its tokenizer and image processor make samples of the rows.
        checkpoint: what the run goes on from; it must have been trained on the same data.

    Raises:
        UserError: anything wrong with the data, before any step is taken.
    """
    specs = recipe.data.dataset_specs()
    clusters = load_clusters(recipe)
    # One process a machine parses, checks and measures the rows; the others map what it has written.
    with PartialState().local_main_process_first():
        mixture = Mixture.load(specs)
        held_out = Mixture.load(specs, split="eval") if any(spec.eval_data_path for spec in specs) else None
        turns = recipe.cluster.instruction_turns if _by_sentence(recipe) else None
        identity = data_identity(mixture, held_out, clusters if needs_clusters(recipe) else None, turns)
        if checkpoint is not None:
            check_data_identity(checkpoint, identity, mixture, held_out, recipe.cluster.cluster_model)
        train = _dataset(recipe, loaded, mixture, training_ids(recipe, mixture, clusters))
    validation = None
    if held_out is not None:
        validation = _dataset(recipe, loaded, held_out, held_out_ids(recipe, held_out, clusters))
    check_same_rows({"rows": train, "held-out rows": validation})
    return TrainingData(
        train=train,
        validation=validation,
        dataset_names=[spec.name for spec in specs],
        cluster_model=clusters,
        identity=identity,
    )


def _by_sentence(recipe: Recipe) -> bool:
    return recipe.stage.stage == "finetune" and recipe.adapter.adapter == "sentence"


def _dataset(
    recipe: Recipe, loaded: LoadedModel, mixture: Mixture, cluster_ids: dict[str, np.ndarray] | None
) -> RowDataset:
    data = recipe.data
    rule = InstructionRule(recipe.cluster.instruction_turns)
    encoder = loaded.family.encoder(
        data.version or loaded.template,
        aspect_ratio=data.image_aspect_ratio or loaded.image_aspect_ratio,
        max_length=data.model_max_length or min(loaded.family.usual_length, loaded.model_max_length),
    )
    return RowDataset(
        mixture,
        encoder,
        cluster_ids,
        corrupt_images=data.corrupt_images,
        instructions=InstructionTokens(loaded.tokenizer, rule) if _by_sentence(recipe) else None,
    )
