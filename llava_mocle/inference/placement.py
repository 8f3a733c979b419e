"""Where a model runs, and in which precision, when nobody says so."""

import torch

from llava_mocle.errors import ConfigError


def choose_placement(
    device: str | torch.device | None, dtype: str | torch.dtype | None
) -> tuple[torch.device, str | torch.dtype]:
    """The device, by default the GPU if there is one; and the precision of weights, by default bfloat16 on a GPU that
    has it and float32 elsewhere.

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
