"""A tiny run that is trained to the end, for the documents' snippets."""

from pathlib import Path

import pytest

from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train
from tests.tiny_run import base, clusters, encoder, mix, recipe_file  # noqa: F401


@pytest.fixture
def trained(recipe_file, tmp_path: Path) -> Path:  # noqa: F811
    """The output folder of four MoCLE steps."""
    train(load_recipe(recipe_file()))
    return tmp_path / "run"
