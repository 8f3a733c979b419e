"""From the `model_type` of a configuration to the family."""

from typing import Any

from llava_mocle.errors import CheckpointError
from llava_mocle.families.family import Family
from llava_mocle.families.instructblip import InstructBlipFamily
from llava_mocle.families.llava import LlavaFamily
from llava_mocle.families.model_types import MODEL_TYPES, known_types
from llava_mocle.families.processor import ProcessorFamily

FAMILIES: dict[str, type[Family]] = {
    "llava": LlavaFamily,
    "instructblip": InstructBlipFamily,
    "processor": ProcessorFamily,
}


def family_of(config: Any) -> type[Family]:
    """The family of a model.

    Args:
        config: its configuration.

    Raises:
        CheckpointError: models of this type are not known.
    """
    family = MODEL_TYPES.get(config.model_type)
    if family is None:
        raise CheckpointError(
            f"model_type is {config.model_type!r}, which is not a vision-language model that is known here; known are "
            f"{', '.join(known_types())}."
        )
    return FAMILIES[family]
