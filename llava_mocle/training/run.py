"""A recipe, run from start to end."""

import logging

from torch import nn
from transformers import set_seed

from llava_mocle.recipe.recipe import Recipe
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.recipe.validation_metrics import check_metric
from llava_mocle.training.checkpoints.resume import Resumption, find_resumption
from llava_mocle.training.loop.gate_check import describe_start
from llava_mocle.training.loop.preemption import Preemption
from llava_mocle.training.loop.trainer import MocleTrainer
from llava_mocle.training.loop.validation import metrics_of
from llava_mocle.training.processes.start import started
from llava_mocle.training.setup.adapter import adapt, count_parameters
from llava_mocle.training.setup.base_defaults import settle
from llava_mocle.training.setup.data import TrainingData, prepare_data
from llava_mocle.training.setup.model import load_start
from llava_mocle.training.setup.warm_start import doubts, find_warm_start, start_from

logger = logging.getLogger(__name__)


def train(recipe: Recipe, trainer_class: type[MocleTrainer] | None = None) -> MocleTrainer:
    """Run a recipe to its end, or to `stop_after_steps`.

    Args:
        trainer_class: another one than `MocleTrainer`, such as one that measures what it does.

    Raises:
        UserError: the recipe, the data, the cluster model or the checkpoint is wrong, which is noticed before the first
            step; or the steps failed, see `MocleTrainer.take_steps`.
        Preempted: SIGTERM or SIGUSR1 came, to any rank. If steps have been taken, a checkpoint was written.
    """
    preemption = Preemption(recipe.stage.resume)
    with preemption.watching(), preemption.before_steps(), started(recipe) as args:
        resumption = find_resumption(recipe, args)
        recipe = _settled(recipe, args, resumption)
        set_seed(args.seed)
        loaded = load_start(recipe, args, resumption.folder if resumption else None)
        data = prepare_data(recipe, loaded, resumption.folder if resumption else None)
        if args.metric_for_best_model and data.validation is not None:
            check_metric(args.metric_for_best_model, metrics_of(data.validation), "one that has a held-out row")
        set_seed(args.seed)  # however the base was loaded, the adapter starts from the same values
        model = adapt(recipe, args, loaded.model, data.dataset_names, loaded.base_record)
        if recipe.model.warm_start and resumption is None:
            _start_warm(recipe, args, model)
        trainer = (trainer_class or MocleTrainer)(recipe, args, loaded, data, model, preemption, resumption)
        if args.world_size > 1:
            set_seed(args.seed + args.process_index)  # each rank draws its own gate noise and dropout
        gates = describe_start(trainer.routing.tuner) if trainer.routing and not resumption else None
        if trainer.is_world_process_zero():
            _announce(model, data, str(args.output_dir), gates)
        trainer.take_steps()
        steps, max_steps = trainer.state.global_step, trainer.state.max_steps
        if steps < max_steps:
            without = " without stop_after_steps" if args.stop_after_steps else ""
            logger.warning("stopped at step %d of %d; %s%s goes on", steps, max_steps, preemption.command, without)
        elif resumption is None or not resumption.is_result:
            trainer.save_result()
        return trainer


def _settled(recipe: Recipe, args: MocleTrainingArguments, resumption: Resumption | None) -> Recipe:
    """The recipe with what it leaves to its base, which rank 0 says."""
    settled = settle(recipe, resumption.folder if resumption else None)
    if args.process_index == 0:
        print("\n".join(settled.lines), flush=True)
        for warning in settled.warnings:
            logger.warning("%s", warning)
    return settled.recipe


def _start_warm(recipe: Recipe, args: MocleTrainingArguments, model: nn.Module) -> None:
    start = find_warm_start(recipe)
    line = start_from(start, model)
    warnings = doubts(start, model, recipe)
    if args.process_index == 0:
        print(line, flush=True)
        for warning in warnings:
            logger.warning("%s", warning)


def _announce(model: nn.Module, data: TrainingData, output_dir: str, gates: str | None) -> None:
    counts = count_parameters(model)
    parts = ", ".join(f"{kind} {counts[kind]:,}" for kind in ("experts", "router", "projector") if counts[kind])
    held_out = f", {len(data.validation):,} held out" if data.validation is not None else ""
    print(f"training {counts['trainable']:,} of {counts['all']:,} parameters ({parts})")
    print(f"on {len(data.train):,} samples of {', '.join(data.dataset_names)}{held_out} -> {output_dir}", flush=True)
    if gates:
        print(gates, flush=True)
