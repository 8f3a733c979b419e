"""From a configuration to its family."""

import pytest
from transformers import LlavaConfig, T5Config

from llava_mocle.errors import CheckpointError
from llava_mocle.families.llava import LlavaFamily
from llava_mocle.families.model_types import MODEL_TYPES, is_known
from llava_mocle.families.registry import FAMILIES, family_of


def test_every_type_has_a_family() -> None:
    assert set(MODEL_TYPES.values()) == set(FAMILIES)
    assert family_of(LlavaConfig()) is LlavaFamily


def test_an_unknown_type_names_the_known_ones() -> None:
    assert not is_known("t5")
    assert not is_known(None)
    with pytest.raises(CheckpointError, match=r"model_type is 't5'.*known are .*llava"):
        family_of(T5Config())
