"""A tiny MoCLE run and a tiny LoRA run, trained once."""

from pathlib import Path

import pytest
import yaml

from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train
from tests.tiny_run import base, clusters, encoder, mix, recipe_file  # noqa: F401

TINY = {
    "version": "chat", "model_max_length": 128, "num_clusters": 2, "lora_r": 4, "lora_alpha": 8, "num_experts": 3,
    "gate_noise_std": 0.1, "per_device_train_batch_size": 4, "max_steps": 4, "learning_rate": 0.01, "logging_steps": 1,
    "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "seed": 7,
}  # fmt: skip


def tiny_recipe(folder: Path, base: Path, mix: list, clusters: Path, **changes) -> Path:  # noqa: F811
    folder.mkdir(parents=True, exist_ok=True)
    keys = {"model_name_or_path": str(base), "output_dir": str(folder / "run"), "datasets": mix}
    recipe = TINY | keys | {"cluster_model": str(clusters)} | changes
    if recipe.get("adapter") == "lora":
        del recipe["num_experts"], recipe["gate_noise_std"]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="session")
def mocle_recipe(tmp_path_factory, base, mix, clusters) -> Path:  # noqa: F811
    return tiny_recipe(tmp_path_factory.mktemp("mocle"), base, mix, clusters)


@pytest.fixture(scope="session")
def mocle_run(mocle_recipe) -> Path:
    return Path(train(load_recipe(mocle_recipe)).args.output_dir)


@pytest.fixture(scope="session")
def lora_run(tmp_path_factory, base, mix) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("lora")
    recipe = tiny_recipe(folder, base, mix, folder / "no_clusters", adapter="lora", max_steps=1)
    return Path(train(load_recipe(recipe)).args.output_dir)


@pytest.fixture(scope="session", params=["token", "sentence"])
def learned_run(request, tmp_path_factory, base, mix) -> Path:  # noqa: F811
    """A run whose router looks at tokens, and one whose router looks at instructions."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe = tiny_recipe(folder, base, mix, folder / "no_clusters", adapter=request.param, cluster_model=None)
    return Path(train(load_recipe(recipe)).args.output_dir)
