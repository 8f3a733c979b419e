"""Which part of the questions a process of `llava-mocle eval` answers: by flags, or by torchrun's rank."""

import argparse
import os
from typing import TYPE_CHECKING

from llava_mocle.errors import ConfigError

if TYPE_CHECKING:
    from llava_mocle.evaluation.answering.parts import Shard


def make_shard(args: argparse.Namespace) -> "Shard":
    """The shard of --num-chunks and --chunk-idx, or this rank's; sets `args.device` to the rank's GPU where it is free.

    Raises:
        ConfigError: flags that do not go together, or an index that is out of range.
    """
    from llava_mocle.evaluation.answering.parts import Shard

    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if args.num_chunks is None and args.chunk_idx is not None:
        raise ConfigError("--chunk-idx without --num-chunks; give both, or neither to join and score.")
    if args.num_chunks is not None:
        if world_size > 1:
            raise ConfigError("--num-chunks under torchrun: the processes share the questions out by themselves.")
        if args.chunk_idx is None or not 0 <= args.chunk_idx < args.num_chunks:
            raise ConfigError(
                f"--chunk-idx {args.chunk_idx} of --num-chunks {args.num_chunks}: indices go from 0 to num_chunks - 1."
            )
        return Shard(args.chunk_idx, args.num_chunks, joins=False)
    if world_size == 1:
        _refuse_bare_srun()
        return Shard()
    if args.device is None:
        args.device = _device_of_rank()
    _exchange(None)  # from here on, a process that dies is noticed by the others' next exchange
    return Shard(rank, world_size, joins=rank == 0, exchange=_exchange)


def _refuse_bare_srun() -> None:
    """srun's tasks without torchrun's variables would each answer everything.

    Raises:
        ConfigError: this process is one of several tasks of a job step.
    """
    if "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise ConfigError(
            f"srun started {os.environ['SLURM_STEP_NUM_TASKS']} tasks, which do not know of each other. Put "
            "scripts/slurm/rank.sh before the command and set MASTER_ADDR and MASTER_PORT; or start one task with "
            "torchrun; or submit scripts/slurm/eval.sbatch."
        )


def _device_of_rank() -> str | None:
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else None


def _exchange(error: str | None) -> list[str]:
    from datetime import timedelta

    from accelerate import PartialState
    from accelerate.utils import gather_object

    # Shards take different times; gloo, as nothing but messages go over it.
    PartialState(cpu=True, timeout=timedelta(days=2))
    return [message for message in gather_object([error]) if message]
