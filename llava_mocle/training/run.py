"""A recipe, run: load, adapt, train, save."""

import json
import logging
from pathlib import Path

import torch
from accelerate import PartialState
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import set_seed

from llava_mocle.data.collator import Collator
from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.model.build import build_llava
from llava_mocle.model.folders import find_folder, is_original
from llava_mocle.model.load import LoadedModel, load_model, load_projector
from llava_mocle.training.adapter_setup import adapter_config, count_parameters, freeze_all_but_projector
from llava_mocle.training.callbacks import StopAfterSteps, replace_console
from llava_mocle.training.checkpoint import CheckpointExtras, check_same_recipe, checkpoint_step, checkpoint_to_resume
from llava_mocle.training.data_setup import TrainingData, needs_clusters, prepare_data
from llava_mocle.training.hf_arguments import MocleTrainingArguments
from llava_mocle.training.recipe import Recipe
from llava_mocle.training.routing_log import RoutingLog, warn_of_idle_experts
from llava_mocle.training.text_only import run_projector_in_every_step
from llava_mocle.training.trainer import MocleTrainer

logger = logging.getLogger(__name__)


def train(recipe: Recipe) -> MocleTrainer:
    """Run a recipe to its end, or to `stop_after_steps`.

    Raises:
        UserError: anything wrong with the recipe, the data, the cluster model or the checkpoint, before the first step.
    """
    args = recipe.training_arguments()
    if not recipe.trainer.get("output_dir"):
        raise ConfigError("output_dir is not set; it is where checkpoints and the result go")
    checkpoint = checkpoint_to_resume(args.resume, args.output_dir)
    if checkpoint is not None:
        check_same_recipe(checkpoint, recipe)
        if args.stop_after_steps and checkpoint_step(checkpoint) >= args.stop_after_steps:
            raise ConfigError(f"stop_after_steps is {args.stop_after_steps}, and {checkpoint} is there already")
        logger.warning("resuming from %s", checkpoint)
    set_seed(args.seed)
    loaded = load_start(recipe, args)
    data = prepare_data(recipe, loaded)
    model, routing = adapt(recipe, args, loaded, data)
    trainer = build_trainer(recipe, args, loaded, data, model, routing)
    if args.world_size > 1:
        set_seed(args.seed + args.process_index)  # each rank draws its own gate noise and dropout
    if trainer.is_world_process_zero():
        _announce(model, data, args)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if data.train.skipped_images:
        logger.warning("%d rows were skipped: their images could not be read", data.train.skipped_images)
    if trainer.state.global_step < trainer.state.max_steps:
        logger.warning(
            "stopped at step %d of %d; the same command without stop_after_steps goes on",
            trainer.state.global_step,
            trainer.state.max_steps,
        )
        return trainer
    trainer.save_model()
    trainer.save_state()
    if routing is not None and trainer.is_world_process_zero() and not args.deepspeed:
        warn_of_idle_experts(routing.tuner.clean_gates(), routing.tuner.sites)
    return trainer


def load_start(recipe: Recipe, args: MocleTrainingArguments) -> LoadedModel:
    """The model training starts from: frozen weights, with the projector of stage 1 where there is one."""
    source = recipe.model
    if not source.model_name_or_path:
        raise ConfigError("model_name_or_path is not set; give a LLaVA folder, or a language model and vision_tower")
    original = source.vision_tower is not None and _is_original(source.model_name_or_path)
    if source.vision_tower is None or original:
        path = source.model_name_or_path
    else:
        path = _joined_base(recipe, args)
    dtype = source.dtype
    if dtype == "auto":
        dtype = "bfloat16" if args.bf16 and torch.cuda.is_available() else "float32"
    tower = source.vision_tower if original else None
    loaded = load_model(path, dtype=getattr(torch, dtype), attn=source.attn_implementation, vision_tower=tower)
    if isinstance(loaded.model, PeftModel):
        raise ConfigError(
            f"{path}: is a trained adapter; start from its base folder, or use --resume to go on with its run"
        )
    if source.pretrain_mm_mlp_adapter:
        load_projector(loaded.model, source.pretrain_mm_mlp_adapter)
    if args.vision_feature_cache:
        _cache_features(loaded.model, args.vision_feature_cache)
    loaded.model.config.use_cache = loaded.model.config.get_text_config().use_cache = False
    run_projector_in_every_step(loaded.model)
    return loaded


def _is_original(name: str) -> bool:
    """Whether it is a folder of the original LLaVA code, which is a whole model but for its vision tower."""
    try:
        return is_original(find_folder(name, "a LLaVA folder, or a language model to join to vision_tower"))
    except CheckpointError:
        # A base that was joined before can still be there; if not, joining it says what is missing.
        return False


def _joined_base(recipe: Recipe, args: MocleTrainingArguments) -> str:
    source = recipe.model
    assert source.model_name_or_path
    assert source.vision_tower
    folder = Path(str(args.output_dir), "base")
    template = recipe.data.version if recipe.data.version != "plain" else None
    strategies = {None: None, "patch": "default", "full": "full"}
    made_from = {
        "language_model": source.model_name_or_path,
        "vision_tower": source.vision_tower,
        "template": template,
        "vision_feature_layer": source.mm_vision_select_layer,
        "vision_feature_select_strategy": strategies[source.mm_vision_select_feature],
        "seed": args.seed,
    }
    stamp = folder.with_name("base_made_from.json")
    with PartialState().main_process_first():
        if not (folder / "config.json").is_file():
            build_llava(out_dir=folder, **made_from)
            stamp.write_text(json.dumps(made_from, indent=2))
        elif not stamp.is_file() or json.loads(stamp.read_text()) != made_from:
            raise ConfigError(
                f"{folder}: was joined from other parts than this recipe names ({stamp.name} lists them); remove it, "
                "or choose another output_dir"
            )
    return str(folder)


def _cache_features(model: nn.Module, size: int) -> None:
    tower = model.model.vision_tower
    if not hasattr(tower, "feature_cache_size"):
        logger.warning("vision_feature_cache is ignored: %s keeps no features", type(tower).__name__)
        return
    tower.feature_cache_size = size


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

    Only under autocast, which casts them where they are used; DeepSpeed has float32 copies of its own.
    """
    if args.deepspeed or not (args.bf16 or args.fp16):
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
) -> MocleTrainer:
    """Join the parts into a trainer."""
    extras = CheckpointExtras(
        recipe=recipe,
        tokenizer=loaded.tokenizer,
        image_processor=loaded.image_processor,
        cluster_model=data.cluster_model if recipe.stage.stage == "finetune" else None,
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
        dataset_names=data.dataset_names,
        routing=routing,
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
