"""What a run saves can be read by whoever the umask lets read it."""

import os
from pathlib import Path

import pytest

from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train


@pytest.mark.parametrize("stage", ["finetune", "pretrain"])
def test_colleagues_can_read_checkpoints_and_results(recipe_file, tmp_path: Path, stage: str) -> None:
    before = os.umask(0o022)
    try:
        train(load_recipe(recipe_file(stage=stage, save_strategy="steps", save_steps=2)))
    finally:
        os.umask(before)
    weights = "adapter_model.safetensors" if stage == "finetune" else "mm_projector.safetensors"
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.parent.name for path in files if path.name == weights} == {"run", "checkpoint-2", "checkpoint-4"}
    closed = [path.relative_to(tmp_path) for path in files if path.stat().st_mode & 0o044 != 0o044]
    assert closed == []
