"""The ranks of a run: how they connect, what they agree on, and how they end together. Also DeepSpeed's needs."""

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from llava_mocle.errors import ConfigError, UserError
from llava_mocle.io.libraries import quiet_deepspeed
from llava_mocle.recipe.deepspeed_config import read_deepspeed
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.training.processes.death_watch import DeathWatch

logger = logging.getLogger(__name__)

T = TypeVar("T")


def prepare_deepspeed(config: Any) -> None:
    """Set up what DeepSpeed takes for granted; call it before `TrainingArguments` are made.

    Raises:
        ConfigError: DeepSpeed is not installed, or the file is not there or no JSON.
    """
    quiet_deepspeed(not config)
    if not config:
        return
    try:
        import deepspeed.ops
    except ImportError as error:
        raise ConfigError(
            "the recipe's `deepspeed` key needs DeepSpeed: pip install 'llava_mocle[deepspeed]', or pass --deepspeed ''"
        ) from error
    read_deepspeed(config)
    # Without these variables, which launchers set, it would look for MPI. Port 0: one that is free when it is opened.
    # A port that was looked up here could be taken until then; nobody has to know it, as the process is alone.
    for name, value in {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0",
    }.items():  # fmt: skip
        os.environ.setdefault(name, value)
    if not torch.cuda.is_available():
        # DeepSpeed would compile this for a minute at the first collective; gloo works without it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def on_main(function: Callable[[], T]) -> T:
    """Call `function` on the main process alone, and return its result on every process."""
    box = [function() if PartialState().is_main_process else None]
    return cast(T, broadcast_object_list(box)[0])


def start_collectives(args: MocleTrainingArguments) -> None:
    """Start DeepSpeed's collectives unless they run; call it after `TrainingArguments` are made, before the model."""
    if not args.deepspeed or (dist.is_initialized() and torch.cuda.is_available()):
        return
    import deepspeed

    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo")


@contextmanager
def watched(args: MocleTrainingArguments) -> Iterator[None]:
    """Inside the block, a rank that dies ends the other ranks, and they name it (see `death_watch`)."""
    if not dist.is_initialized() or dist.get_world_size() < 2:
        yield
        return
    token = on_main(lambda: secrets.token_hex(8))
    watch = DeathWatch(dist.get_rank(), dist.get_world_size(), token)
    port = on_main(watch.listen)
    if watch.rank != 0:
        watch.connect(os.environ.get("MASTER_ADDR", "127.0.0.1"), port)
    try:
        yield
    except BaseException as error:
        if isinstance(error, UserError) and error.on_every_rank:
            watch.close()  # all ranks raise it, so they leave together
            raise
        if not isinstance(error, UserError):
            watch.wait_for_reports()
        watch.fail(f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    watch.close()
