"""Recipes that cannot work, told before anything is loaded."""

from transformers.integrations.integration_utils import get_available_reporting_integrations

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.recipe.unsupported import refuse_keys


def check_recipe(recipe: Recipe, args: MocleTrainingArguments) -> None:
    """Refuse values and combinations that would fail late, or do nothing.

    Raises:
        ConfigError: names the key, its value, and what to do.
    """
    refuse_keys(recipe, args)
    _check_numbers(recipe, args)
    _check_trainer(args)
    _check_dtype(recipe, args)
    _check_validation(recipe, args)
    _check_trackers(args)
    for key in ("mm_vision_select_layer", "mm_vision_select_feature"):
        value = getattr(recipe.model, key)
        if value is not None and not recipe.model.vision_tower:
            raise ConfigError(
                f"{key} is {value!r}, but vision_tower is not set, and {recipe.model.model_name_or_path} has its own "
                f"choice; leave {key} out (as a flag: --{key} none), or set vision_tower"
            )


def _check_numbers(recipe: Recipe, args: MocleTrainingArguments) -> None:
    values = {
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "per_device_eval_batch_size": args.per_device_eval_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "model_max_length": recipe.data.model_max_length,
        "stop_after_steps": args.stop_after_steps,
    }
    for key, value in values.items():
        if value is not None and value < 1:
            switch = "; leave it out to train to the end" if key == "stop_after_steps" else ""
            raise ConfigError(f"{key} is {value}, expected a whole number from 1{switch}")


def _check_trainer(args: MocleTrainingArguments) -> None:
    if args.deepspeed and args.load_best_model_at_end:
        raise ConfigError("load_best_model_at_end cannot be used with deepspeed; take the best checkpoint's folder")
    if args.save_only_model:
        raise ConfigError("save_only_model makes checkpoints that cannot be resumed; leave it out (they are small)")
    if args.remove_unused_columns:
        raise ConfigError(
            "remove_unused_columns is true, which would drop the cluster ids that route each sample; leave it out"
        )
    options = args.activation_checkpointing_kwargs
    if isinstance(options, dict) and options.get("use_reentrant"):
        raise ConfigError(
            f"activation_checkpointing_kwargs is {options!r}: re-entrant checkpointing would go backward twice through "
            "the routing that all layers share, which fails; leave use_reentrant out, it is false then"
        )


def _check_dtype(recipe: Recipe, args: MocleTrainingArguments) -> None:
    dtype = recipe.model.dtype
    if dtype in ("bfloat16", "float16") and not (args.bf16 or args.fp16):
        raise ConfigError(
            f"dtype is {dtype!r} without bf16 or fp16: what is trained would be {dtype} as well, where small updates "
            "vanish; set `bf16: true` (or fp16: trained weights are float32 then), or leave dtype out"
        )


def _check_validation(recipe: Recipe, args: MocleTrainingArguments) -> None:
    asked = {"eval_strategy": str(args.eval_strategy.value), "eval_on_start": args.eval_on_start}
    for key, value in asked.items():
        if value not in ("no", False) and not any(spec.eval_data_path for spec in recipe.data.dataset_specs()):
            raise ConfigError(
                f"{key} is {str(value).lower()}, but no dataset names held-out rows; give one an eval_data_path, or "
                f"leave {key} out"
            )


def _check_trackers(args: MocleTrainingArguments) -> None:
    """transformers would notice after model and data are loaded."""
    asked = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    here = get_available_reporting_integrations()
    for name in asked:
        if name not in (*here, "none", "all"):
            raise ConfigError(
                f"report_to is {name!r}, which is not installed here; install it, or give --report_to tensorboard or "
                "--report_to none"
            )
