"""Resolve a recipe and build its model on the meta device: no weights, no data, no device."""

import logging
from pathlib import Path

import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoConfig, LlavaForConditionalGeneration

import llava_mocle.model  # noqa: F401  (registers the grid tower with AutoConfig)
from llava_mocle.errors import ConfigError
from llava_mocle.model.folders import PROJECTOR_CONFIG
from llava_mocle.model.load import find_base
from llava_mocle.recipe.checks import check_recipe
from llava_mocle.recipe.keys import ModelArguments
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.training.processes.device import unseen_gpus
from llava_mocle.training.setup.adapter import (
    adapter_config,
    check_targets,
    count_parameters,
    freeze_all_but_projector,
)

logger = logging.getLogger(__name__)

# D of all-MiniLM-L6-v2; a dry run loads no encoder to ask.
DEFAULT_ENCODER_DIM = 384


def meta_model(recipe: Recipe) -> nn.Module:
    """The model a recipe trains, on the meta device: shapes and what requires a gradient, but no values.

    Raises:
        ConfigError: a key does not fit, a target matches nothing, or no model configuration is at hand.
        CheckpointError: the base that a stage-1 folder names is not there.
    """
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(AutoConfig.from_pretrained(_config_source(recipe.model)))
        if recipe.stage.stage == "pretrain":
            freeze_all_but_projector(model)
            return model
        check_targets(recipe.adapter.lora_target_modules, model)
        config = adapter_config(
            recipe.adapter,
            num_datasets=len(recipe.data.dataset_specs()),
            centroids=None,
            cluster_shape=(recipe.cluster.num_clusters, DEFAULT_ENCODER_DIM),
        )
        return get_peft_model(model, config)


def dry_run(recipe: Recipe) -> str:
    """What a recipe would train, as text. Warns if it could not be trained on this machine.

    Raises:
        UserError: as `meta_model`, or as `check_recipe`.
    """
    args = recipe.training_arguments(report_to="none")
    check_recipe(recipe, args)
    trouble = unseen_gpus(recipe)
    if trouble is not None:
        logger.warning("training would be refused here: %s", trouble)
    model = meta_model(recipe)
    counts = count_parameters(model)
    lines = [f"recipe      {recipe.source or 'command line'}", f"stage       {recipe.stage.stage}"]
    if recipe.stage.stage == "finetune":
        lines.append(f"adapter     {recipe.adapter.adapter}: {recipe.adapter.lora_target_modules}")
    for spec in recipe.data.dataset_specs():
        lines.append(f"dataset     {spec.name} x {spec.repeat}: {spec.data_path}")
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    lines.append(f"batch       {batch} a process; learning rate {args.learning_rate:g}")
    lines += [f"parameters  {kind:<10} {count:>14,}" for kind, count in counts.items()]
    return "\n".join(lines)


def _config_source(model: ModelArguments) -> Path:
    for source in (model.model_config, model.model_name_or_path):
        place = Path(source) if source else None
        if place is None:
            continue
        if (place / PROJECTOR_CONFIG).is_file():
            place = find_base(place, PROJECTOR_CONFIG)
        if place.is_file() or (place / "config.json").is_file():
            return place
    raise ConfigError(
        f"model_config is {model.model_config!r} and model_name_or_path is {model.model_name_or_path!r}: neither is a "
        "LLaVA config.json or a folder that holds one, and a dry run needs one; if stage 1 is to write "
        "model_name_or_path, train that first, or give the base it starts from as --model_config"
    )
