"""The one place that touches PEFT's type maps, and its warnings."""

import warnings
from typing import Any, cast

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from llava_mocle.adapter.config import PEFT_TYPE, MocleConfig
from llava_mocle.adapter.model import MocleModel


def register() -> None:
    """Make PEFT know MoCLE.

    PEFT's own `register_peft_method` refuses a name that is not in its enum, but its maps take any string.
    """
    for mapping, value in (
        (PEFT_TYPE_TO_CONFIG_MAPPING, MocleConfig),
        (PEFT_TYPE_TO_TUNER_MAPPING, MocleModel),
        (PEFT_TYPE_TO_PREFIX_MAPPING, MocleModel.prefix),
    ):
        cast(dict[str, Any], mapping)[PEFT_TYPE] = value
    # PEFT reads this property of every model that it wraps. Whoever loads an adapter can do nothing about that.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
