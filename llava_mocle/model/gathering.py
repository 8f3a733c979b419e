"""Parameters that ZeRO-3 has partitioned: their whole shape, and the whole of them for a moment."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any


def whole_shape(parameter: Any) -> tuple[int, ...]:
    """A parameter's shape, also while it is partitioned, or if bitsandbytes has packed its values two a byte."""
    packed = getattr(parameter, "quant_state", None)
    return tuple(getattr(parameter, "ds_shape", parameter.shape) if packed is None else packed.shape)


def gathered(parameters: Sequence[Any], modified: bool = False) -> Any:
    """A context in which the parameters are whole on every rank. All ranks enter it together.

    Args:
        modified: scatter what rank 0 has written into them at the end.
    """
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0 if modified else None)
