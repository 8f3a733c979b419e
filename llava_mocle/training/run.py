"""A recipe, run: load, adapt, train, save."""

import logging
from pathlib import Path

from peft import get_peft_model
from torch import nn
from transformers import set_seed

from llava_mocle.data.collator import Collator
from llava_mocle.errors import ConfigError
from llava_mocle.model.gathering import gathered
from llava_mocle.model.load import LoadedModel
from llava_mocle.recipe.checks import check_recipe
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.training.checkpoints.contents import CheckpointExtras, checkpoint_step
from llava_mocle.training.checkpoints.resume import Resumption, find_resumption, leave_other_course, prepare_universal
from llava_mocle.training.loop.callbacks import StopAfterSteps, replace_console
from llava_mocle.training.loop.preemption import Preemption, ValidationCutOff
from llava_mocle.training.loop.routing_log import RoutingLog, warn_of_idle_experts
from llava_mocle.training.loop.trainer import MocleTrainer
from llava_mocle.training.processes.device import refuse_unseen_gpus, warn_of_idle_gpus
from llava_mocle.training.processes.group import prepare_deepspeed, start_collectives, watched
from llava_mocle.training.processes.launcher_watch import ending_with_launcher
from llava_mocle.training.processes.loader_workers import end_workers, naming_rows, start_workers_safely
from llava_mocle.training.processes.output_dir import claimed
from llava_mocle.training.setup.adapter import (
    adapter_config,
    check_targets,
    count_parameters,
    freeze_all_but_projector,
)
from llava_mocle.training.setup.clusters import needs_clusters
from llava_mocle.training.setup.data import TrainingData, prepare_data
from llava_mocle.training.setup.model import load_start
from llava_mocle.training.setup.same_rows import check_same_data

logger = logging.getLogger(__name__)


def train(recipe: Recipe) -> MocleTrainer:
    """Run a recipe to its end, or to `stop_after_steps`.

    Raises:
        UserError: anything wrong with the recipe, the data, the cluster model or the checkpoint, before the first step.
        Preempted: SIGTERM or SIGUSR1 came, to any rank; a checkpoint was written.
    """
    if not recipe.trainer.get("output_dir"):
        raise ConfigError("output_dir is not set; it is where checkpoints and the result go")
    refuse_unseen_gpus(recipe)
    prepare_deepspeed(recipe.trainer.get("deepspeed"))
    preemption = Preemption()
    with preemption.watching(), ending_with_launcher():
        args = recipe.training_arguments()
        check_recipe(recipe, args)
        warn_of_idle_gpus(recipe, args)
        preemption.resume = args.resume
        start_workers_safely(args)
        start_collectives(args)
        try:
            with watched(args), claimed(str(args.output_dir)):
                return _train(recipe, args, preemption)
        except BaseException:
            end_workers()
            raise


def _train(recipe: Recipe, args: MocleTrainingArguments, preemption: Preemption) -> MocleTrainer:
    resumption = find_resumption(recipe, args)
    if resumption is not None:
        prepare_universal(resumption, args)
    set_seed(args.seed)
    loaded = load_start(recipe, args)
    data = prepare_data(recipe, loaded, resumption.folder if resumption else None)
    check_same_data(data)
    set_seed(args.seed)  # however the base was loaded, the adapter starts from the same values
    model, routing = adapt(recipe, args, loaded, data)
    trainer = build_trainer(recipe, args, loaded, data, model, routing, preemption, resumption)
    if args.world_size > 1:
        set_seed(args.seed + args.process_index)  # each rank draws its own gate noise and dropout
    if trainer.is_world_process_zero():
        _announce(model, data, args)
    if preemption.told(args.device):
        raise preemption.error(None, checkpoint_step(resumption.folder) if resumption else 0)
    if resumption:
        leave_other_course(resumption, args)
    if resumption and resumption.finished:
        logger.warning("%s has all its steps; writing the result", resumption.folder)
        trainer.restore_finished()
    else:
        try:
            with naming_rows(data.train, data.validation):
                trainer.train(resume_from_checkpoint=str(resumption.folder) if resumption else None)
        except ValidationCutOff:  # of the pass before the first step: there is nothing new to save
            raise preemption.error(None, trainer.state.global_step) from None
    if data.train.skipped_images:
        logger.warning("%d rows were skipped: their images could not be read", data.train.skipped_images)
    steps, of = trainer.state.global_step, trainer.state.max_steps
    if preemption.stopped:
        trainer.accelerator.wait_for_everyone()
        raise preemption.error(Path(str(args.output_dir), f"checkpoint-{steps}"), steps)
    if steps < of:
        without = " without stop_after_steps" if args.stop_after_steps else ""
        logger.warning("stopped at step %d of %d; %s%s goes on", steps, of, preemption.command, without)
        return trainer
    trainer.save_result()
    if routing is not None:
        with gathered(list(routing.tuner.mocle_router.parameters())):
            gates = routing.tuner.clean_gates()
        if trainer.is_world_process_zero():
            warn_of_idle_experts(gates, routing.tuner.sites)
    return trainer


def adapt(
    recipe: Recipe, args: MocleTrainingArguments, loaded: LoadedModel, data: TrainingData
) -> tuple[nn.Module, RoutingLog | None]:
    """Freeze the model and put the stage's trainable parts in.

    Returns:
        The model to train, and the routing statistics where something is routed.
    """
    if recipe.stage.stage == "pretrain":
        freeze_all_but_projector(loaded.model)
        keep_in_float32(loaded.model, args)
        return loaded.model, None
    check_targets(recipe.adapter.lora_target_modules, loaded.model)
    config = adapter_config(
        recipe.adapter,
        num_datasets=len(data.dataset_names),
        centroids=recipe.cluster.cluster_model if needs_clusters(recipe) else None,
    )
    # DeepSpeed keeps float32 copies itself, and under ZeRO-3 asserts that all trainable parameters share one dtype.
    model = get_peft_model(loaded.model, config, autocast_adapter_dtype=not args.deepspeed)
    keep_in_float32(model, args)
    routed = recipe.adapter.adapter != "lora"
    return model, RoutingLog(model.base_model) if routed else None


def keep_in_float32(model: nn.Module, args: MocleTrainingArguments) -> None:
    """Trainable parameters of a 16 bit model in float32: in 16 bit, updates below a weight's spacing would vanish.

    Autocast casts them where they are used; DeepSpeed has float32 copies of its own.
    """
    if args.deepspeed:
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def build_trainer(
    recipe: Recipe,
    args: MocleTrainingArguments,
    loaded: LoadedModel,
    data: TrainingData,
    model: nn.Module,
    routing: RoutingLog | None,
    preemption: Preemption,
    resumption: Resumption | None = None,
) -> MocleTrainer:
    """Join the parts into a trainer."""
    extras = CheckpointExtras(
        recipe=recipe,
        tokenizer=loaded.tokenizer,
        image_processor=loaded.image_processor,
        cluster_model=data.cluster_model if recipe.stage.stage == "finetune" else None,
        content=data.content,
    )
    callbacks = [StopAfterSteps(args.stop_after_steps)] if args.stop_after_steps else []
    trainer = MocleTrainer(
        model=model,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=Collator(pad_token_id=loaded.tokenizer.pad_token_id),
        callbacks=callbacks,
        extras=extras,
        base_path=loaded.base_path,
        resumption=resumption,
        dataset_names=data.dataset_names,
        routing=routing,
        preemption=preemption,
    )
    replace_console(trainer)
    return trainer


def _announce(model: nn.Module, data: TrainingData, args: MocleTrainingArguments) -> None:
    counts = count_parameters(model)
    parts = ", ".join(f"{kind} {counts[kind]:,}" for kind in ("experts", "router", "projector") if counts[kind])
    held_out = f", {len(data.validation):,} held out" if data.validation is not None else ""
    print(f"training {counts['trainable']:,} of {counts['all']:,} parameters ({parts})")
    print(
        f"on {len(data.train):,} samples of {', '.join(data.dataset_names)}{held_out} -> {args.output_dir}", flush=True
    )
