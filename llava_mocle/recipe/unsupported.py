"""Keys of `transformers.TrainingArguments` that would do nothing here, or the wrong thing: refused, not ignored."""

import dataclasses
from typing import Any

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments

_NO_METRICS = "validation here gives losses, a dataset and a cluster, and no other metrics; leave it out"
_WHILE_TRAINING = "it does nothing while a run trains; `bf16` and `fp16` hold for its validation too; leave it out"
# Key -> why a value that is not the default is refused, and what to do.
REFUSED = {
    "resume_from_checkpoint": "the key is `resume` here: --resume FOLDER (auto, the default, takes the newest)",
    "train_sampling_strategy": "the order is a seeded shuffle; choose with group_by_modality_length (true or false)",
    "length_column_name": "lengths are measured, not read; leave it out",
    "label_smoothing_factor": (
        "transformers smooths LLaVA's labels without shifting them by one, so each position would learn its own token; "
        "leave it out"
    ),
    "save_on_each_node": "a checkpoint is one folder on a filesystem that all machines share; leave it out",
    "push_to_hub": "checkpoints are moved into place while they would be uploaded; upload a finished folder instead",
    "enable_jit_checkpoint": "SIGTERM and SIGUSR1 save and end a run as it is; leave it out",
    "auto_find_batch_size": (
        "the global batch is part of a run; ask `llava-mocle plan`, and set per_device_train_batch_size"
    ),
    "optim_target_modules": "parameter groups are this project's own; choose an `optim` that does not need it",
    "fsdp": "trained parameters are sharded by DeepSpeed here; set `deepspeed` to a file in zero_configs/",
    "fsdp_config": "trained parameters are sharded by DeepSpeed here; set `deepspeed` to a file in zero_configs/",
    "parallelism_config": "processes share the data here, and DeepSpeed shards; leave it out",
    "ignore_data_skip": "a resumed run would meet its epoch's first samples again; leave it out",
    "average_tokens_across_devices": (
        "the loss is the mean over the supervised tokens of the global batch, and would be a mean of the processes' "
        "means; leave it out"
    ),
    "dataloader_in_order": "batches out of order would make steps of other samples; leave it out",
    "label_names": "labels are made from the conversations; leave it out",
    "include_for_metrics": _NO_METRICS,
    "batch_eval_metrics": _NO_METRICS,
    "fp16_full_eval": _WHILE_TRAINING,
    "bf16_full_eval": _WHILE_TRAINING,
    "do_predict": "training predicts nothing; score the result with `llava-mocle eval`",
}
# Of `accelerator_config`, what would change which samples make up a step.
_ACCELERATOR = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler")


def refuse_keys(recipe: Recipe, args: MocleTrainingArguments) -> None:
    """Refuse what `REFUSED` names.

    Raises:
        ConfigError: names the key, its value, and what to do.
    """
    fields = {item.name: item for item in dataclasses.fields(MocleTrainingArguments)}
    for key, reason in REFUSED.items():
        value, default = recipe.trainer.get(key), _default(fields[key])
        off = not value and not default
        if value is not None and value != default and not off:
            raise ConfigError(f"{key} is {value!r}: {reason}")
    if recipe.trainer.get("do_eval") and args.eval_strategy == "no":
        raise ConfigError("do_eval is true, but eval_strategy is no: set that to steps or epoch, or leave do_eval out")
    given, usual = args.accelerator_config, type(args.accelerator_config)()
    for key in _ACCELERATOR:
        if getattr(given, key) != getattr(usual, key):
            raise ConfigError(
                f"accelerator_config: {key} is {getattr(given, key)!r}, which would change which samples make up a "
                "step; leave it out"
            )


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
