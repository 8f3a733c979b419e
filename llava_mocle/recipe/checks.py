"""Recipes that cannot work, or keys that would do nothing or the wrong thing: refused before anything is loaded."""

from importlib.util import find_spec

from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from llava_mocle.errors import ConfigError, UserError
from llava_mocle.model.quantization import require_bitsandbytes
from llava_mocle.recipe.deepspeed_config import read_deepspeed, zero_stage
from llava_mocle.recipe.recipe import Recipe, trainer_defaults
from llava_mocle.recipe.rehearsal import rehearse
from llava_mocle.recipe.router_options import check_router_options
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments, policies
from llava_mocle.recipe.validation_metrics import check_best_checkpoint

# Of `accelerator_config`, what would change which samples make up a step.
_ACCELERATOR = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler")


def check_recipe(recipe: Recipe, args: MocleTrainingArguments) -> None:
    """Refuse values and combinations that would fail late, or do nothing.

    Raises:
        ConfigError: names the key, its value, and what to do.
    """
    refuse_unsupported(recipe, args)
    _check_trainer(recipe, args)
    _check_dtype(recipe, args)
    check_quantization(recipe)
    _check_validation(recipe, args)
    check_weighted(recipe)
    check_router_options(recipe)
    check_best_checkpoint(recipe, args)
    _check_trackers(recipe)
    _check_deepspeed(recipe, args)
    rehearse(args)
    if recipe.model.warm_start and recipe.stage.stage == "pretrain":
        raise ConfigError(
            f"warm_start is {recipe.model.warm_start!r} in stage pretrain, which has no adapter; give it in stage "
            "finetune, or pretrain_mm_mlp_adapter to start from a projector"
        )
    for key in ("mm_vision_select_layer", "mm_vision_select_feature"):
        value = getattr(recipe.model, key)
        if value is not None and not recipe.model.vision_tower:
            raise ConfigError(
                f"{key} is {value!r}, but vision_tower is not set, and {recipe.model.model_name_or_path} has its own "
                f"choice; leave {key} out (as a flag: --{key} none), or set vision_tower"
            )


def refuse_unsupported(recipe: Recipe, args: MocleTrainingArguments) -> None:
    """Refuse keys of `transformers.TrainingArguments` that would do nothing here, or the wrong thing.

    Raises:
        ConfigError: names the key, its value, and what to do.
    """
    for key, policy in policies().items():
        if policy.refused:
            value, default = recipe.trainer.get(key), trainer_defaults()[key]
            off = not value and not default
            if value is not None and value != default and not off:
                raise ConfigError(f"{key} is {value!r}: {policy.refused}")
    if recipe.trainer.get("do_eval") and args.eval_strategy == "no":
        raise ConfigError("do_eval is true, but eval_strategy is no: set that to steps or epoch, or leave do_eval out")
    given, usual = args.accelerator_config, type(args.accelerator_config)()
    for key in _ACCELERATOR:
        if getattr(given, key) != getattr(usual, key):
            raise ConfigError(
                f"accelerator_config: {key} is {getattr(given, key)!r}, which would change which samples make up a "
                "step; leave it out"
            )


def _check_trainer(recipe: Recipe, args: MocleTrainingArguments) -> None:
    if recipe.trainer.get("deepspeed") and args.load_best_model_at_end:
        raise ConfigError("load_best_model_at_end cannot be used with deepspeed; take the best checkpoint's folder")
    options = args.activation_checkpointing_kwargs
    if isinstance(options, dict) and options.get("use_reentrant"):
        raise ConfigError(
            f"activation_checkpointing_kwargs is {options!r}: re-entrant checkpointing would go backward twice through "
            "the routing that all layers share, which fails; leave use_reentrant out, it is false then"
        )


def check_weighted(recipe: Recipe) -> None:
    """Refuse datasets drawn by weight without a number of steps.

    Raises:
        ConfigError: says what to set.
    """
    specs = recipe.data.dataset_specs() if recipe.data.datasets else []
    weighted = [spec.name for spec in specs if spec.weight is not None]
    if weighted and recipe.trainer["max_steps"] < 1:
        raise ConfigError(
            f"max_steps is {recipe.trainer['max_steps']}, but dataset {weighted[0]!r} is drawn by weight, so no epoch "
            "would end; set max_steps to the number of steps, or give the datasets a repeat in place of a weight"
        )


def _check_dtype(recipe: Recipe, args: MocleTrainingArguments) -> None:
    dtype = recipe.model.dtype
    if dtype in ("bfloat16", "float16") and not (args.bf16 or args.fp16):
        raise ConfigError(
            f"dtype is {dtype!r} without bf16 or fp16: what is trained would be {dtype} as well, where small updates "
            "vanish; set `bf16: true` (or fp16: trained weights are float32 then), or leave dtype out"
        )


def check_quantization(recipe: Recipe) -> None:
    """Refuse what a language model in 4 or 8 bit cannot do.

    Raises:
        ConfigError: names `bits` and what to do.
    """
    bits = recipe.model.bits
    if bits == 16:
        return
    require_bitsandbytes(bits)
    if recipe.stage.stage == "pretrain":
        raise ConfigError(
            f"bits is {bits} in stage pretrain, which has no adapter: transformers' Trainer takes no quantized model "
            "without one; set bits to 16 in stage 1 (its projector fits a quantized base)"
        )
    try:
        stage = zero_stage(recipe.trainer.get("deepspeed"))
    except UserError:
        return  # a file that is not there: reported with all others that are not
    if stage == 3:
        raise ConfigError(
            f"bits is {bits} under ZeRO-3, which cannot divide weights that bitsandbytes has packed; give zero2.json, "
            "which divides the optimizer's state and gradients, or bits 16"
        )
    if recipe.trainer.get("torch_compile"):
        raise ConfigError(f"bits is {bits} with torch_compile: transformers trains no quantized model that is compiled")


def _check_validation(recipe: Recipe, args: MocleTrainingArguments) -> None:
    asked = {"eval_strategy": str(args.eval_strategy.value), "eval_on_start": args.eval_on_start}
    for key, value in asked.items():
        if value not in ("no", False) and not any(spec.eval_data_path for spec in recipe.data.dataset_specs()):
            raise ConfigError(
                f"{key} is {str(value).lower()}, but no dataset names held-out rows; give one an eval_data_path, or "
                f"leave {key} out"
            )
    steps = recipe.trainer.get("eval_steps")
    # Who says `eval_strategy: no` switches a recipe's validation off.
    if steps is not None and args.eval_strategy == "no" and "eval_strategy" not in recipe.given:
        raise ConfigError(
            f"eval_steps is {steps:g}, but eval_strategy is no, so nothing is validated; set eval_strategy to steps, "
            "or leave eval_steps out"
        )


def _check_deepspeed(recipe: Recipe, args: MocleTrainingArguments) -> None:
    """transformers would notice after the model is loaded."""
    asked = recipe.trainer.get("deepspeed")
    if not asked or find_spec("deepspeed") is None:
        return
    read = getattr(args, "hf_deepspeed_config", None)
    if read is None:  # a dry run, whose arguments are made without DeepSpeed
        from accelerate.utils import DeepSpeedPlugin
        from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

        try:
            read = HfTrainerDeepSpeedConfig(read_deepspeed(asked))
            read.trainer_config_process(args)
            DeepSpeedPlugin(hf_ds_config=read)
        except UserError:
            return  # a file that is not there: reported with all others that are not
        except Exception as error:
            raise ConfigError(f"deepspeed: the configuration cannot be used: {' '.join(str(error).split())}") from error
    # The batch depends on the number of processes, which only a run knows.
    differ = [text.removeprefix("- ") for text in read.mismatches if args.deepspeed or "train_batch_size=" not in text]
    if differ:
        raise ConfigError(
            f'deepspeed: its configuration (ds) and the recipe (hf) differ: {"; ".join(differ)}; write "auto" into the '
            "configuration, which then takes the recipe's value"
        )


def _check_trackers(recipe: Recipe) -> None:
    """transformers would notice after model and data are loaded. The recipe is read, as a dry run reports to none."""
    asked = recipe.trainer.get("report_to") or []
    here = get_available_reporting_integrations()
    for name in [asked] if isinstance(asked, str) else asked:
        if name in (*here, "auto", "none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise ConfigError(f"report_to is {name!r}, expected auto, none, all, or a list of: {known}")
        raise ConfigError(
            f"report_to is {name!r}, which is not installed here; install it, or give --report_to tensorboard or "
            "--report_to none"
        )
