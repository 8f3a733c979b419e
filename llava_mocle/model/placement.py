"""Where a model runs: the device, the dtype of the weights, and the attention kernel."""

import importlib.util
import logging
from typing import Any

import torch

from llava_mocle.errors import ConfigError

logger = logging.getLogger(__name__)

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
_KERNELS = ("auto", "flash_attention_2", "sdpa", "eager")


def choose_placement(
    device: str | torch.device | None, dtype: str | torch.dtype | None
) -> tuple[torch.device, str | torch.dtype]:
    """The device to run on and the dtype of the weights, with the defaults for what is None.

    The default device is the GPU if there is one. The default dtype is bfloat16 on a GPU that has it, else float32.

    Raises:
        ConfigError: the device is not there, or torch cannot use it.
    """
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].strip()
        raise ConfigError(
            f"device {str(device)!r} cannot be used ({reason}); leave --device out for the GPU if there is one, or "
            "take cpu."
        ) from error
    if dtype is None:
        dtype = torch.bfloat16 if place.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return place, dtype


def parse_dtype(dtype: Any) -> Any:
    """A torch dtype from its name ("bfloat16", "bf16", ...); "auto" (as saved) stays "auto".

    Raises:
        ConfigError: an unknown name.
    """
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; use auto, {', '.join(_DTYPES)} or a torch dtype")
    return _DTYPES[dtype]


def choose_attention(attn: str, device: torch.device | None, dtype: Any) -> str:
    """The attention kernel to load with, logged.

    "auto" takes flash_attention_2 where flash-attn is installed, the weights are 16 bit and run on a GPU, else sdpa.

    Raises:
        ConfigError: an unknown kernel, or flash_attention_2 asked for where it cannot run.
    """
    if attn not in _KERNELS:
        raise ConfigError(f"attn is {attn!r}; use one of {', '.join(_KERNELS)}")
    on_gpu = torch.cuda.is_available() and (device is None or device.type == "cuda")
    reasons = []
    if importlib.util.find_spec("flash_attn") is None:
        reasons.append("flash-attn is not installed (pip install 'llava_mocle[cuda]')")
    if not on_gpu:
        reasons.append("not on a GPU")
    if dtype not in (torch.bfloat16, torch.float16):
        reasons.append(f"weights are {dtype}, not 16 bit")
    if attn == "flash_attention_2" and reasons:
        raise ConfigError(f"attn is 'flash_attention_2', which cannot run here: {'; '.join(reasons)}. Use 'auto'.")
    chosen = attn if attn != "auto" else ("sdpa" if reasons else "flash_attention_2")
    logger.info("attention: %s%s", chosen, f" ({'; '.join(reasons)})" if attn == "auto" and reasons else "")
    return chosen
