from pathlib import Path

import torch

from llava_mocle.model import load_model
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import load_start
from tests.model.checkpoints import write_original


def test_an_original_folder_takes_its_tower_from_the_recipe(recipe_file, base: Path, tmp_path: Path) -> None:
    """It is a whole model: nothing is joined, and its own projector stays."""
    clip = base.parent / "clip"
    folder = write_original(tmp_path / "original", base, "openai/none", with_tower=False, suffix=".bin")
    recipe = load_recipe(recipe_file(model_name_or_path=str(folder), vision_tower=str(clip), version="vicuna_v1"))
    loaded = load_start(recipe, recipe.training_arguments())
    assert loaded.kind == "legacy"
    assert loaded.base_path == folder
    assert not (tmp_path / "run" / "base").exists()
    expected = load_model(base).model.state_dict()
    for name, value in loaded.model.state_dict().items():
        rows = len(value) if "embed_tokens" in name or "lm_head" in name else None
        size = min(rows, loaded.image_token_id) if rows else None
        assert torch.equal(value[:size], expected[name][:size]), name


def test_a_language_model_is_joined_as_before(recipe_file, base: Path, tmp_path: Path) -> None:
    parts = {"model_name_or_path": str(base.parent / "llama"), "vision_tower": str(base.parent / "clip")}
    recipe = load_recipe(recipe_file(**parts))
    loaded = load_start(recipe, recipe.training_arguments())
    assert loaded.kind == "base"
    assert loaded.base_path == tmp_path / "run" / "base"
