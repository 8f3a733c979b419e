"""Resolve a recipe and build its model on the meta device: no weights, no data, no device."""

import logging
from dataclasses import dataclass

from llava_mocle.errors import CheckpointError, UserError
from llava_mocle.recipe.checks import check_recipe
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.training.preflight import Findings, look_up
from llava_mocle.training.processes.device import unseen_gpus, unusable_half
from llava_mocle.training.setup.adapter import count_parameters
from llava_mocle.training.setup.base_defaults import base_of, settle
from llava_mocle.training.setup.meta_model import OtherLayout, meta_model

logger = logging.getLogger(__name__)


@dataclass
class DryRun:
    """What a recipe would train, as text, and what stands in its way."""

    text: str
    found: Findings


def dry_run(recipe: Recipe) -> DryRun:
    """Look up what a run would start from, and count what it would train. Warns if it could not be trained here.

    Raises:
        ConfigError: a key that no machine takes, as `check_recipe`.
    """
    # Without DeepSpeed, which would bring processes together.
    args = recipe.training_arguments(report_to="none", deepspeed=None)
    check_recipe(recipe, args)
    for trouble in filter(None, (unseen_gpus(recipe), unusable_half(args))):
        logger.warning("training would be refused here: %s", trouble)
    found = look_up(recipe, dry=True)
    lines = [f"recipe      {recipe.source or 'command line'}", f"stage       {recipe.stage.stage}"]
    lines += _settled_lines(recipe, found)
    if recipe.stage.stage == "finetune":
        lines.append(f"adapter     {recipe.adapter.adapter}")
    if recipe.model.warm_start and found.checkpoint is None:
        lines.append(f"starts from {recipe.model.warm_start}")
    for spec in recipe.data.dataset_specs():
        lines.append(f"dataset     {spec.name}, {spec.how_often()}: {spec.data_path}")
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    lines.append(f"batch       {batch} a process; learning rate {args.learning_rate:g}")
    if found.checkpoint is not None:
        lines.append(f"resumes     {found.checkpoint}")
    try:
        counts = count_parameters(meta_model(recipe))
        lines += [f"parameters  {kind:<10} {count:>14,}" for kind, count in counts.items()]
    except OtherLayout as error:
        found.add(f"parameters: {error}", unsure=True)
    except UserError as error:
        found.problems.append(error)
    lines += [f"not checked {line}" for line in found.unchecked]
    return DryRun("\n".join(lines), found)


def _settled_lines(recipe: Recipe, found: Findings) -> list[str]:
    """What the base, stage 1 or the checkpoint decides."""
    if not recipe.model.model_name_or_path:
        return []
    try:
        base_of(recipe, download=False)
    except CheckpointError:  # reported already: missing, or not looked up
        asked = recipe.data.version
        return [f"template    {asked or 'the base has it'} (the base is not here, so its own is not known)"]
    try:
        settled = settle(recipe, found.checkpoint, download=False)
    except UserError as error:
        found.problems.append(error)
        return []
    for warning in settled.warnings:
        logger.warning("%s", warning)
    return settled.lines
