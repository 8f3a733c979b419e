"""`transformers.TrainingArguments` with this project's defaults (paper, appendix A.2), and a policy for every field."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from transformers import TrainingArguments

from llava_mocle.io.secrets import without_secrets
from llava_mocle.recipe.keys import GROUPS, StageArguments
from llava_mocle.recipe.policy import ABOVE_0, FROM_0, FROM_1, SEED, SHARE, Policy, Range, declared, free, same

_NO_METRICS = "validation gives losses, per dataset and per cluster, and no other metrics; leave it out"
_SHARDED = "trained parameters are sharded by DeepSpeed here; set `deepspeed` to a file in zero_configs/"
_WHILE_TRAINING = "it does nothing while a run trains; `bf16` and `fp16` hold for its validation too; leave it out"
# Field -> why a value other than the default is refused, and what to do instead.
_NOT_SUPPORTED = {
    "resume_from_checkpoint": "the key is `resume` here: --resume FOLDER (auto, the default, takes the newest)",
    "train_sampling_strategy": "the order is a seeded shuffle; choose with group_by_modality_length (true or false)",
    "length_column_name": "lengths are measured, not read; leave it out",
    "label_smoothing_factor": (
        "transformers smooths LLaVA's labels without shifting them by one, so each position would "
        "learn its own token; leave it out"
    ),
    "save_on_each_node": "a checkpoint is one folder on a filesystem that all machines share; leave it out",
    "save_only_model": "its checkpoints cannot be resumed; leave it out (they are small)",
    "push_to_hub": "checkpoints are moved into place while they would be uploaded; upload a finished folder instead",
    "enable_jit_checkpoint": "SIGTERM and SIGUSR1 already save a checkpoint and end the run; leave it out",
    "auto_find_batch_size": (
        "the global batch is part of a run; ask `llava-mocle plan`, and set per_device_train_batch_size"
    ),
    "optim_target_modules": "parameter groups are this project's own; choose an `optim` that does not need it",
    "fsdp": _SHARDED,
    "fsdp_config": _SHARDED,
    "parallelism_config": "each process trains on its share of the data, and DeepSpeed shards; leave it out",
    "ignore_data_skip": "a resumed run would meet its epoch's first samples again; leave it out",
    "average_tokens_across_devices": (
        "the loss is the mean over the supervised tokens of the global batch, and would be a mean "
        "of the processes' means; leave it out"
    ),
    "dataloader_in_order": "batches out of order would change which samples make up a step; leave it out",
    "label_names": "labels are made from the conversations; leave it out",
    "include_for_metrics": _NO_METRICS,
    "batch_eval_metrics": _NO_METRICS,
    "fp16_full_eval": _WHILE_TRAINING,
    "bf16_full_eval": _WHILE_TRAINING,
    "do_predict": "training predicts nothing; score the result with `llava-mocle eval`",
}
# What decides what is trained. The size of the global batch is compared by itself.
_SAME = (
    "max_steps", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "adam_beta1", "adam_beta2",
    "adam_epsilon", "max_grad_norm", "bf16", "fp16", "tf32", "use_liger_kernel", "liger_kernel_config",
    "neftune_noise_alpha", "seed", "data_seed", "accelerator_config", "dataloader_drop_last",
)  # fmt: skip
_FREE = (
    # How to compute it.
    "per_device_train_batch_size", "gradient_accumulation_steps", "deepspeed", "use_cpu", "local_rank", "torch_compile",
    "torch_compile_backend", "torch_compile_mode", "torch_empty_cache_steps", "use_cache", "full_determinism",
    "ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_static_graph", "ddp_timeout",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context", "activation_checkpointing", "activation_checkpointing_kwargs",
    # What to log.
    "logging_strategy", "logging_first_step", "log_on_each_node", "log_level", "log_level_replica", "disable_tqdm",
    "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    "include_num_input_tokens_seen", "skip_memory_metrics", "debug",
    # When and how to validate.
    "do_train", "do_eval", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start",
    "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object", "prediction_loss_only",
    # What to save, and where.
    "output_dir", "save_strategy", "save_steps", "save_total_limit", "load_best_model_at_end", "metric_for_best_model",
    "restore_callback_states_from_checkpoint", "hub_model_id", "hub_strategy", "hub_private_repo",
    "hub_always_push", "hub_revision",
)  # fmt: skip
_PATHS = ("output_dir", "deepspeed", "accelerator_config")
_BELOW_1 = Range(0, 1, below=True)
# A run whose rate is too high is stopped when its numbers are not finite; float32 has no larger ones.
_RATE = Range(0, 1e29)
_NUMBERS = {
    "seed": SEED, "data_seed": SEED, "max_steps": Range(-1), "warmup_steps": FROM_0, "adam_beta1": _BELOW_1,
    "adam_beta2": _BELOW_1, "adam_epsilon": ABOVE_0, "max_grad_norm": FROM_0, "neftune_noise_alpha": ABOVE_0,
    "per_device_train_batch_size": FROM_1, "gradient_accumulation_steps": FROM_1,
    "eval_accumulation_steps": FROM_1, "torch_empty_cache_steps": FROM_1, "save_total_limit": FROM_1,
    "eval_steps": ABOVE_0, "save_steps": ABOVE_0, "eval_delay": FROM_0, "dataloader_num_workers": FROM_0,
    "dataloader_prefetch_factor": FROM_1, "ddp_bucket_cap_mb": FROM_1, "ddp_timeout": FROM_1,
}  # fmt: skip
# Every field of `transformers.TrainingArguments` that `MocleTrainingArguments` does not declare anew.
TRAINER_POLICIES: dict[str, Policy] = {
    **{key: Policy("same", path=key in _PATHS, numbers=_NUMBERS.get(key)) for key in _SAME},
    **{key: Policy("free", path=key in _PATHS, numbers=_NUMBERS.get(key)) for key in _FREE},
    # LLaVA's names of `activation_checkpointing` and its options.
    "gradient_checkpointing": Policy("free", excludes="activation_checkpointing"),
    "gradient_checkpointing_kwargs": Policy("free", excludes="activation_checkpointing_kwargs"),
    "hub_token": Policy("free", secret=True),
    **{key: Policy("same", refused=why) for key, why in _NOT_SUPPORTED.items()},
}


@dataclass
class MocleTrainingArguments(TrainingArguments, StageArguments):
    """Everything `transformers.Trainer` takes, plus `StageArguments`.

    Defaults follow the paper: learning rate 1e-4, cosine to 0, weight decay 0, one pass. `warmup_ratio` (the paper's
    3 %) and `gradient_checkpointing` are kept as LLaVA users know them; transformers calls them `warmup_steps` below
    1 and `activation_checkpointing` now.
    """

    learning_rate: float = same(1e-4, "Learning rate of the experts.", numbers=_RATE)
    weight_decay: float = same(0.0, "Weight decay.", numbers=FROM_0)
    lr_scheduler_type: str = same("cosine", "Learning rate schedule.")
    warmup_ratio: float | None = same(
        None, "Warm-up as a share of all steps: 0.03.", excludes="warmup_steps", numbers=SHARE
    )
    num_train_epochs: float = same(1.0, "Passes over the mixture.", numbers=ABOVE_0)
    per_device_eval_batch_size: int | None = free(  # type: ignore[assignment]
        None,
        "Rows of a validation batch on each process. None: four times `per_device_train_batch_size`, as no activations "
        "are kept for a backward; as many as that where logits of all tokens are computed (see `supervised_head`).",
        numbers=FROM_1,
    )
    logging_steps: float = free(1, "Log every so many steps.", numbers=ABOVE_0)
    logging_nan_inf_filter: bool = free(False, "Off: a loss of nan is logged as it is.")
    # Not `str | None`: `none` is a value of its own here, and not an unset key.
    report_to: str = free("auto", "auto: tensorboard when installed; wandb, tensorboard or none.")
    # transformers takes "greater is better" of every name that does not end in "loss", and ours end in what it is of.
    greater_is_better: bool | None = free(
        False,
        "Every metric of validation is a loss: lower is better.",
        refused="every metric of validation is a loss, and lower is better; leave it out",
    )
    ddp_find_unused_parameters: bool | None = free(False, "Off: every trained parameter takes part in every step.")
    remove_unused_columns: bool = same(
        False,
        "Off: routing inputs are columns.",
        refused="it would drop the cluster ids that route each sample; leave it out",
    )

    def __post_init__(self) -> None:
        if self.warmup_ratio is not None:
            self.warmup_steps = self.warmup_ratio
        for llavas, key in (
            ("gradient_checkpointing", "activation_checkpointing"),
            ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
        ):
            if getattr(self, key) is None:
                setattr(self, key, getattr(self, llavas))
                setattr(self, llavas, None)
        if self.greater_is_better is None:
            self.greater_is_better = False
        if self.report_to == "auto":
            self.report_to = "tensorboard" if find_spec("tensorboard") else "none"
        if self.per_device_eval_batch_size is None:
            self.per_device_eval_batch_size = (4 if self.supervised_head else 1) * self.per_device_train_batch_size
        super().__post_init__()
        if self.activation_checkpointing:
            # Re-entrant checkpointing would recompute outside the forward that set the routing.
            given = getattr(self, "activation_checkpointing_kwargs", None)
            self.activation_checkpointing_kwargs = {"use_reentrant": False, **(given or {})}
        # One process drives one GPU: with several visible ones Trainer would wrap the model in DataParallel, whose
        # replicas cannot share one routing. torchrun starts a process a GPU.
        if self.n_gpu > 1:
            self._n_gpu = 1

    def to_dict(self) -> dict[str, Any]:
        """What loggers such as TensorBoard and W&B record: no secrets, also not inside a DeepSpeed configuration."""
        return without_secrets(super().to_dict())


@cache
def policies() -> dict[str, Policy]:
    """The policy of every key that a recipe may hold."""
    found = TRAINER_POLICIES | declared(MocleTrainingArguments)
    for group in GROUPS.values():
        found |= declared(group)
    return found


@cache
def unused_keys(adapter: str) -> frozenset[str]:
    """The keys that do nothing with a kind of adapter."""
    return frozenset(key for key, policy in policies().items() if policy.adapters and adapter not in policy.adapters)
