"""Checks of the device that a run trains on: not the CPU by mistake, and a warning about GPUs that stay idle."""

import logging
import os
import subprocess

import torch

from llava_mocle.recipe.recipe import Recipe
from llava_mocle.recipe.start_script import start_script
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments

logger = logging.getLogger(__name__)

# CUDA_VISIBLE_DEVICES of a process that has no GPU.
_NO_DEVICES = ("", "-1", "NoDevFiles")
_PATIENCE_S = 30


def unseen_gpus(recipe: Recipe) -> str | None:
    """What is wrong, if this machine has GPUs for the run, torch sees none, and `use_cpu` is not set; else None."""
    if recipe.trainer.get("use_cpu") or torch.cuda.is_available():
        return None
    sign = _sign_of_gpus()
    if sign is None:
        return None
    version = torch.__version__
    if torch.version.cuda is None and torch.version.hip is None:
        cause = f"torch {version} is a CPU build"
        remedy = "install a CUDA build (`TORCH=cuda make setup`, or as pytorch.org says)"
    else:
        cause = f"torch {version} (CUDA {torch.version.cuda}) sees none"
        remedy = (
            "make `nvidia-smi` work and its driver new enough for that CUDA, or install a build for the driver "
            "that is here (pytorch.org)"
        )
    return f"this machine has GPUs ({sign}), but {cause}; {remedy}, or train on the CPU on purpose: --use_cpu true"


def unusable_half(args: MocleTrainingArguments) -> str | None:
    """What is wrong, if the run is to compute in float16 on a device that accelerate does not do it on; else None."""
    if args.fp16 and args.device.type == "cpu":
        return "fp16 is true, and this run is on the CPU, which computes in bfloat16 at most; set `bf16: true` instead"
    return None


def _sign_of_gpus() -> str | None:
    """The sign that there are GPUs for this process, in words; None without one."""
    # This variable can only hide GPUs: DeepSpeed's launcher sets it to 0 on a machine without any.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.split(",")[0].strip() in _NO_DEVICES:
        return None
    granted = os.environ.get("SLURM_GPUS_ON_NODE", "")
    if granted.isdigit() and int(granted) > 0:
        return f"SLURM_GPUS_ON_NODE is {granted}"
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    gpus = [line for line in listed.splitlines() if line.startswith("GPU")]
    return f"nvidia-smi lists {len(gpus)}" if gpus else None


def warn_of_idle_gpus(recipe: Recipe, args: MocleTrainingArguments) -> None:
    """Warn if a run of one process leaves other GPUs of its machine unused."""
    count = 0 if args.use_cpu else torch.cuda.device_count()
    if args.world_size == 1 and count > 1:
        logger.warning(
            "this run is one process and uses one of %d GPUs; `bash %s %s` starts one process on each "
            "(CUDA_VISIBLE_DEVICES=0 says that one is enough)",
            count, start_script(recipe), recipe.source or "RECIPE",
        )  # fmt: skip
