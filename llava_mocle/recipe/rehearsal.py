"""Values that a library refuses late, or for want of a package: each library is asked about something tiny first."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from transformers import Trainer, get_scheduler
from transformers.utils import is_liger_kernel_available

from llava_mocle.errors import ConfigError
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments

# Steps of the schedule that is tried; any number does.
_STEPS = 10


def rehearse(args: MocleTrainingArguments) -> None:
    """Make what `transformers.Trainer` makes of the arguments after the model is loaded.

    Raises:
        ConfigError: names the keys, their values and what the library said.
    """
    adam = ("optim", "optim_args", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
    optimizer = _attempt(args, adam, _optimizer)
    schedule = ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps")
    _attempt(args, schedule, lambda given: _schedule(given, optimizer))
    loader = (
        "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers",
        "dataloader_multiprocessing_context",
    )  # fmt: skip
    _attempt(args, loader, _loader)
    if args.activation_checkpointing:
        _attempt(args, ("activation_checkpointing_kwargs",), _recompute)
    if args.torch_compile:
        _attempt(args, ("torch_compile_backend", "torch_compile_mode"), _compile)
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise ConfigError(
            "use_liger_kernel is true, and the package liger-kernel is not installed here; install it (pip install "
            "liger-kernel), or leave use_liger_kernel out"
        )
    if args.ddp_backend is not None:
        _attempt(args, ("ddp_backend",), lambda given: torch.distributed.Backend(given.ddp_backend))


def _attempt(args: MocleTrainingArguments, keys: Sequence[str], make: Callable[[MocleTrainingArguments], Any]) -> Any:
    """What `make` makes of the arguments. Whatever a library raises is a value of these keys that it does not take."""
    try:
        return make(args)
    except Exception as error:
        usual = {key: type(args).__dataclass_fields__[key].default for key in keys}
        changed = [key for key in keys if getattr(args, key) != usual[key]] or list(keys[:1])
        named = [key for key in changed if _works(make, args, key, usual[key])] or changed
        values = ", ".join(f"{key} is {_shown(getattr(args, key))}" for key in named)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{values}: {type(error).__name__}: {reason}") from error


def _works(make: Callable[[MocleTrainingArguments], Any], args: MocleTrainingArguments, key: str, value: Any) -> bool:
    """Whether all is well with another value of that key."""
    other = copy(args)
    setattr(other, key, value)
    try:
        make(other)
    except Exception:
        return False
    return True


def _shown(value: Any) -> str:
    return repr(getattr(value, "value", value))


def _optimizer(args: MocleTrainingArguments) -> torch.optim.Optimizer:
    made, options = Trainer.get_optimizer_cls_and_kwargs(args)
    parameter = nn.Parameter(torch.zeros(2, 2))
    return made([{"params": [parameter], "weight_decay": args.weight_decay}], **options)


def _schedule(args: MocleTrainingArguments, optimizer: torch.optim.Optimizer) -> None:
    schedule = get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=args.get_warmup_steps(_STEPS),
        num_training_steps=_STEPS,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
    by_metric = "metrics" in inspect.signature(schedule.step).parameters
    if not by_metric:
        schedule.get_last_lr()


def _loader(args: MocleTrainingArguments) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this machine has few cores; the run says it again
        DataLoader(
            [0],  # type: ignore[arg-type]
            num_workers=args.dataloader_num_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            persistent_workers=args.dataloader_persistent_workers,
            multiprocessing_context=args.dataloader_multiprocessing_context if args.dataloader_num_workers else None,
        )


def _recompute(args: MocleTrainingArguments) -> None:
    checkpoint(
        torch.square,
        torch.ones(1, requires_grad=True),
        **(args.activation_checkpointing_kwargs or {"use_reentrant": False}),
    )


def _compile(args: MocleTrainingArguments) -> None:
    torch.compile(torch.square, backend=str(args.torch_compile_backend), mode=args.torch_compile_mode)
