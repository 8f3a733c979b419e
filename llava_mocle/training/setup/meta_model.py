"""The model that a recipe trains, on the meta device: shapes and names without weights."""

from pathlib import Path

import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoConfig

import llava_mocle.model  # noqa: F401  (registers the grid tower with AutoConfig)
from llava_mocle.clustering.cluster_config import ClusterConfig
from llava_mocle.clustering.cluster_files import CONFIG_FILE
from llava_mocle.clustering.encoder import outside_zero3
from llava_mocle.errors import CheckpointError, ClusterModelError, ConfigError
from llava_mocle.families.model_types import is_known
from llava_mocle.families.registry import family_of
from llava_mocle.io.paths import why_missing
from llava_mocle.model.folders import PROJECTOR_CONFIG, is_original
from llava_mocle.model.load import find_base
from llava_mocle.recipe.keys import ModelArguments
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.training.setup.adapter import (
    adapter_config,
    check_targets,
    choose_products,
    freeze_all_but_projector,
    parts_of,
)

# D of all-MiniLM-L6-v2; a dry run loads no encoder to ask.
DEFAULT_ENCODER_DIM = 384


class OtherLayout(ConfigError):
    """A model that can be trained, but whose parts are not in one config.json of transformers' layout."""


def meta_model(recipe: Recipe) -> nn.Module:
    """The model a recipe trains, on the meta device: shapes and what requires a gradient, but no values.

    Raises:
        ConfigError: a key does not fit, a target matches nothing, or no model configuration is at hand.
        CheckpointError: the base that a stage-1 folder names is not there.
    """
    with outside_zero3(), torch.device("meta"):  # whose parameters no process holds a part of
        model = _empty_model(recipe.model)
        if recipe.stage.stage == "pretrain":
            freeze_all_but_projector(model)
            return model
        check_targets(recipe.adapter, model)
        parts = parts_of(model)
        config = adapter_config(
            recipe.adapter,
            parts,
            datasets=[spec.name for spec in recipe.data.dataset_specs()],
            centroids=None,
            cluster_shape=_cluster_shape(recipe),
        )
        adapted = get_peft_model(model, config)
        choose_products(recipe.adapter, parts, adapted)
        return adapted


def _cluster_shape(recipe: Recipe) -> tuple[int, int]:
    """(K, D) of the recipe's cluster model; what the recipe says where it is not here."""
    try:
        config = ClusterConfig.read(Path(str(recipe.cluster.cluster_model)) / CONFIG_FILE)
    except ClusterModelError:
        return recipe.cluster.num_clusters, DEFAULT_ENCODER_DIM
    return config.num_clusters, config.dim


def _empty_model(model: ModelArguments) -> nn.Module:
    source = _config_source(model)
    try:
        config = None if source.is_dir() and is_original(source) else AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{source}: cannot be used as a config.json ({type(error).__name__}: {error})") from error
    if config is None or not is_known(config.model_type):
        kind = "an original LLaVA" if config is None else f"a {config.model_type}"
        raise OtherLayout(
            f"{source}: is the configuration of {kind}; to count them, give a config.json of the whole LLaVA in "
            "transformers' layout as --model_config"
        )
    family = family_of(config)
    config = family.settled(config, source)
    return family.model_class(config)(config)


def _config_source(model: ModelArguments) -> Path:
    for source in (model.model_config, model.model_name_or_path):
        place = Path(source) if source else None
        if place is None or why_missing(place) is not None:
            continue
        if (place / PROJECTOR_CONFIG).is_file():
            place = find_base(place, PROJECTOR_CONFIG, download=False)
        if place.is_file() or (place / "config.json").is_file():
            return place
    raise ConfigError(
        f"model_config is {model.model_config!r} and model_name_or_path is {model.model_name_or_path!r}: neither is a "
        "LLaVA config.json or a folder that holds one, and a dry run needs one; if stage 1 is to write "
        "model_name_or_path, train that first, or give the base it starts from as --model_config"
    )
