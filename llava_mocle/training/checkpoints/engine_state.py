"""DeepSpeed's part of a checkpoint: gathering the trained weights, and reading and converting the optimizer's state.

The files below `global_stepN` are written and read by DeepSpeed, which uses pickle: resume only from folders you trust.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llava_mocle.adapter.in_place import is_saved
from llava_mocle.errors import CheckpointError
from llava_mocle.model.gathering import gathered

logger = logging.getLogger(__name__)

UNIVERSAL_FOLDER = ".universal"


def saved_state(model: nn.Module, writer: bool) -> dict[str, torch.Tensor]:
    """Copies on the CPU of all parameters that a checkpoint holds (see `is_saved`). All ranks call it together.

    Parameters are gathered one at a time. The frozen ones of the base, most of a model by far, are not gathered.

    Args:
        model: without DeepSpeed's wrapper.
        writer: whether this process is to have the copies; where it is not, the result is empty.
    """
    state = {}
    for name, parameter in model.named_parameters():
        if is_saved(name, parameter):
            with gathered([parameter]):
                if writer:
                    state[name] = parameter.detach().to("cpu", copy=True)
    return state


def load_engine(engine: Any, folder: str | Path) -> None:
    """Put what DeepSpeed saved, or `to_universal` wrote, back into an engine: trained weights and optimizer state.

    Raises:
        CheckpointError: the folder holds none, or it does not fit the engine.
    """
    optimizer = engine.optimizer.optimizer
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        # Not strict, as the frozen weights are not in the file. The optimizer's state is, for every trained one.
        path, _ = engine.load_checkpoint(str(folder), load_module_strict=False)
    except (AssertionError, KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: DeepSpeed cannot load its state ({type(error).__name__}: {error})") from error
    if path is None:
        raise CheckpointError(f"{folder}: holds no DeepSpeed state (no file `latest`)")
    # From a universal checkpoint under ZeRO-3, DeepSpeed gives every group the settings of the first, and lets all
    # share one step counter, which would then count once for each group.
    for group, before in zip(optimizer.param_groups, settings, strict=True):
        group.update(before)
    for parameter, state in optimizer.state.items():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].to(parameter.device, copy=True)


def to_universal(checkpoint: Path, folder: Path) -> None:
    """Convert a checkpoint's optimizer state to DeepSpeed's universal form, which any number of ranks can load.

    Args:
        checkpoint: a checkpoint-N folder.
        folder: created; it needs three times the room of the trained weights in float32.
    """
    from deepspeed.checkpoint.ds_to_universal import main as convert

    tag = (checkpoint / "latest").read_text().strip()
    logger.warning("converting the optimizer state of %s", checkpoint)
    convert(
        argparse.Namespace(
            input_folder=str(checkpoint / tag),
            output_folder=str(folder / f"{tag}_universal"),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
    )
    (folder / "latest_universal").write_text(f"{tag}_universal")
