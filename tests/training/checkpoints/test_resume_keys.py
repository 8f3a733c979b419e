"""What may change between a run and its resumption: how it runs, and where the same data lies."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from llava_mocle.data.image_limits import ImageUnreadable
from llava_mocle.errors import ConfigError, DataError
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.checkpoints.manifest import MANIFEST_FILE
from llava_mocle.training.run import train


@pytest.fixture
def begun(recipe_file, mix: list[dict], clusters: Path, tmp_path: Path):
    """Takes two steps of four; returns a function that goes on with keys changed."""
    recipe = recipe_file()
    train(load_recipe(recipe, ["--stop_after_steps", "2"]))

    def go_on(**changes) -> int:
        return train(load_recipe(recipe_file(**changes))).state.global_step

    return go_on


def moved(mix: list[dict], folder: Path) -> list[dict]:
    """The same datasets under other paths."""
    shutil.copytree(Path(mix[0]["data_path"]).parent, folder)
    paths = ("data_path", "image_folder", "eval_data_path")
    return [spec | {key: str(folder / Path(spec[key]).name) for key in paths} for spec in mix]


HOW_TO_RUN = {
    "corrupt_images": "skip",
    "use_cpu": True,
    "dataloader_num_workers": 1,
    "dataloader_multiprocessing_context": "fork",
    "torch_empty_cache_steps": 10,
    "skip_memory_metrics": False,
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"preserve_rng_state": True},
    "log_level": "debug",
    "log_level_replica": "error",
    "log_on_each_node": False,
    "eval_on_start": True,
    "project": "another",
}


def test_keys_that_change_nothing_may_change(begun) -> None:
    assert begun(**HOW_TO_RUN) == 4


def test_a_token_is_in_no_file_of_a_run(recipe_file, tmp_path: Path) -> None:
    keys = {"hub_token": "hf_my-secret", "report_to": "tensorboard"}
    recipe = load_recipe(recipe_file(**keys), ["--stop_after_steps", "1"])
    assert recipe.trainer["hub_token"] == "hf_my-secret"
    train(recipe)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(path.name.startswith("events.out.tfevents") for path in files)
    assert any(path.name == "recipe.yaml" for path in files)
    assert [path.name for path in files if b"my-secret" in path.read_bytes()] == []


def test_an_older_checkpoint_that_holds_a_token_goes_on(begun, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoint-2"
    recipe = checkpoint / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "hub_token: hf_my-secret\n")
    manifest = json.loads((checkpoint / MANIFEST_FILE).read_text())
    written = recipe.read_bytes()
    manifest["files"]["recipe.yaml"] = {"bytes": len(written), "sha256": hashlib.sha256(written).hexdigest()}
    (checkpoint / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=r"another recipe \(lora_dropout: ") as caught:
        begun(lora_dropout=0.5)
    assert "my-secret" not in str(caught.value)
    assert begun() == 4


def test_an_image_lost_on_the_way_is_skipped_as_its_error_says(recipe_file, mix: list[dict], tmp_path: Path) -> None:
    mix = moved(mix, tmp_path / "mix")
    recipe = recipe_file(datasets=mix, max_steps=19)
    train(load_recipe(recipe, ["--stop_after_steps", "1"]))
    for picture in (tmp_path / "mix" / "images").glob("1*.png"):
        picture.write_bytes(b"cut off")
    with pytest.raises(ImageUnreadable, match=r"can't be read .*`--corrupt_images skip`"):
        train(load_recipe(recipe))
    assert train(load_recipe(recipe, ["--corrupt_images", "skip"])).state.global_step == 19


def test_the_same_data_may_lie_elsewhere(begun, mix: list[dict], clusters: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(clusters, tmp_path / "clusters")
    assert begun(datasets=moved(mix, tmp_path / "mix"), cluster_model=str(copied)) == 4


def test_other_data_elsewhere_is_refused(begun, mix: list[dict], tmp_path: Path) -> None:
    specs = moved(mix, tmp_path / "mix")
    rows = json.loads(Path(specs[1]["data_path"]).read_text())
    rows[3]["conversations"][1]["value"] = "something else"
    Path(specs[1]["data_path"]).write_text(json.dumps(rows))
    with pytest.raises(ConfigError, match=r"mix/sums\.json: the rows of dataset 'sums' are not those"):
        begun(datasets=specs)


def test_a_name_that_the_clusters_do_not_know_is_refused(begun, mix: list[dict]) -> None:
    with pytest.raises(DataError, match="holds no dataset 'other'"):
        begun(datasets=[mix[0], mix[1] | {"name": "other"}])


@pytest.mark.parametrize("change", [{"repeat": 5}, {"eval_data_path": None}])
def test_another_mixture_is_refused(begun, mix: list[dict], change: dict) -> None:
    with pytest.raises(ConfigError, match=r"another recipe \(datasets: "):
        begun(datasets=[mix[0], mix[1] | change])


def test_another_order_is_refused(begun, mix: list[dict]) -> None:
    with pytest.raises(ConfigError, match=r"another recipe \(datasets: "):
        begun(datasets=mix[::-1])


def test_without_digests_paths_count(begun, mix: list[dict], clusters: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "run" / "checkpoint-2" / MANIFEST_FILE
    older = json.loads(manifest.read_text())
    del older["rows"], older["held_out_rows"], older["cluster_model"]
    manifest.write_text(json.dumps(older))
    with pytest.raises(ConfigError, match=r"another recipe \(cluster_model: .*; datasets: "):
        begun(datasets=moved(mix, tmp_path / "mix"), cluster_model=str(shutil.copytree(clusters, tmp_path / "c")))


def test_how_often_to_save_is_this_commands_to_say(begun, tmp_path: Path) -> None:
    assert begun(save_strategy="steps", save_steps=1) == 4
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == [
        f"checkpoint-{step}" for step in (2, 3, 4)
    ]
