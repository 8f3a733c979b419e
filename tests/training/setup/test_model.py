import json
import os
from pathlib import Path

import pytest
import torch

from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.model import load_model
from llava_mocle.model.load import LoadedModel
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


STAMP = "base_made_from.json"


class CutOff(BaseException):
    """In place of a kill."""


@pytest.fixture
def joined(recipe_file, base: Path):
    """Starts a run of two parts that are to be joined."""
    parts = {"model_name_or_path": str(base.parent / "llama"), "vision_tower": str(base.parent / "clip")}

    def load(**changes) -> LoadedModel:
        recipe = load_recipe(recipe_file(**parts, **changes))
        return load_start(recipe, recipe.training_arguments())

    return load


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_base_that_was_cut_off_is_joined_again(joined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int):
    """Before each of the last steps by which a base comes to be: its last file, its name, the stamp, its place."""
    steps = []

    def cutting(original):
        def step(*args, **kwargs):
            if ".base." in str(args[0]):
                steps.append(args)
                if len(steps) == cut:
                    raise CutOff
            return original(*args, **kwargs)

        return step

    with monkeypatch.context() as patch:
        # Nothing is tidied up after a kill.
        patch.setattr("llava_mocle.io.folders.shutil.rmtree", lambda *args, **kwargs: None)
        patch.setattr(os, "replace", cutting(os.replace))
        patch.setattr(Path, "write_text", cutting(Path.write_text))
        with pytest.raises(CutOff):
            joined()
    assert len(steps) == cut
    weights = joined().model.state_dict()
    folder = tmp_path / "run" / "base"
    assert json.loads((folder / STAMP).read_text())["seed"] == 7
    assert [place.name for place in folder.parent.iterdir()] == ["base"]
    before = (folder / STAMP).stat().st_mtime_ns
    again = joined().model.state_dict()
    assert (folder / STAMP).stat().st_mtime_ns == before
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    with pytest.raises(ConfigError, match=r"other parts than this recipe names \(.*base/base_made_from\.json lists"):
        joined(seed=8)


@pytest.mark.parametrize("left", ["nothing", "half", "whole"])
def test_a_base_of_an_earlier_version(joined, tmp_path: Path, left: str) -> None:
    """It has its stamp beside it, which a kill may have prevented."""
    joined()
    folder = tmp_path / "run" / "base"
    text = (folder / STAMP).read_text()
    (folder / STAMP).unlink()
    if left != "nothing":
        (folder.parent / STAMP).write_text(text if left == "whole" else text[:20])
    joined()
    assert (folder / STAMP).exists() == (left != "whole")
    with pytest.raises(ConfigError, match="other parts"):
        joined(seed=8)


def test_a_folder_of_somebody_else_is_not_touched(joined, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "base"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="never overwritten"):
        joined()
    assert [place.name for place in folder.parent.rglob("*")] == ["base", "config.json"]


def test_a_run_on_the_cpu_takes_nothing_that_needs_a_gpu(recipe_file, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a GPU is there, and `use_cpu` leaves it alone."""
    given = {}
    monkeypatch.setattr(
        "llava_mocle.training.setup.model.load_model",
        lambda path, **options: given.update(options) or load_model(path, **options),
    )
    recipe = load_recipe(recipe_file(use_cpu=True, bf16=True))
    args = recipe.training_arguments()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    load_start(recipe, args)
    assert given["dtype"] == torch.float32
    assert given["device"] == "cpu"
