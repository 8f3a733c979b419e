"""A run's processes from start to end: brought together, watched, and ended together."""

from collections.abc import Iterator
from contextlib import contextmanager

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.checks import check_recipe
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.training.preflight import look_up
from llava_mocle.training.processes.device import unseen_gpus, unusable_half, warn_of_idle_gpus
from llava_mocle.training.processes.group import prepare_deepspeed, start_collectives, watched
from llava_mocle.training.processes.launcher_watch import ending_with_launcher
from llava_mocle.training.processes.loader_workers import end_workers, start_workers_safely
from llava_mocle.training.processes.output_dir import claimed


@contextmanager
def started(recipe: Recipe) -> Iterator[MocleTrainingArguments]:
    """Start this process's part of a run, and give the run's arguments.

    Inside the block all processes of the run are connected, a process that dies ends the others, and `output_dir` is
    this run's alone. If the block fails, its loader workers are killed.

    Raises:
        ConfigError: the recipe cannot run here, before anything is loaded.
    """
    trouble = unseen_gpus(recipe)
    if trouble is not None:
        raise ConfigError(trouble)
    prepare_deepspeed(recipe.trainer.get("deepspeed"))
    with ending_with_launcher():
        args = recipe.training_arguments()
        check_recipe(recipe, args)
        if (trouble := unusable_half(args)) is not None:
            raise ConfigError(trouble)
        look_up(recipe).refuse()
        warn_of_idle_gpus(recipe, args)
        start_workers_safely(args)
        start_collectives(args)
        try:
            with watched(args), claimed(str(args.output_dir)):
                yield args
        except BaseException:
            end_workers()
            raise
