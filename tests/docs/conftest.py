"""A folder as the documents' readers have it: a base, a trained run, rows and pictures under the pages' names."""

from pathlib import Path

import pytest

from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train
from tests.tiny_run import base, clusters, encoder, mix, recipe_file  # noqa: F401


@pytest.fixture
def user_folder(
    base: Path,  # noqa: F811
    mix: list[dict],  # noqa: F811
    clusters: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The folder that a page's snippets run in. `trained` adds runs/mine."""
    folder = tmp_path / "user"
    images = Path(mix[0]["image_folder"])
    links = {
        "runs/base": base,
        "clusters/k4": clusters,
        "clusters/k64": clusters,
        "images": images,
        "train.json": Path(mix[0]["data_path"]),
        "scan.png": images / "3.png",
        "a.png": images / "4.png",
        "b.png": images / "5.png",
    }
    for name, target in links.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def trained(recipe_file, tmp_path: Path, user_folder: Path) -> Path:  # noqa: F811
    """The output folder of four MoCLE steps, which is also runs/mine."""
    train(load_recipe(recipe_file(output_dir=str(tmp_path / "run"), save_strategy="steps", save_steps=4)))
    (user_folder / "runs/mine").symlink_to(tmp_path / "run")
    return tmp_path / "run"
