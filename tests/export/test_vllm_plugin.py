"""The plug-in is found by vLLM, and is needed for the grid tower alone."""

import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava_mocle.export.vllm_plugin import GRID_ARCHITECTURE, GRID_TOWER, architecture_of
from llava_mocle.model import GridVisionConfig

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_entry_point_names_a_function() -> None:
    points = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["entry-points"]["vllm.general_plugins"]
    (place,) = points.values()
    module, _, function = place.partition(":")
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize(
    ("tower", "expected"),
    [("clip_vision_model", "LlavaForConditionalGeneration"), (GridVisionConfig.model_type, GRID_ARCHITECTURE)],
)
def test_architectures(tower: str, expected: str) -> None:
    assert architecture_of(SimpleNamespace(vision_config=SimpleNamespace(model_type=tower))) == expected
    assert GridVisionConfig.model_type == GRID_TOWER
