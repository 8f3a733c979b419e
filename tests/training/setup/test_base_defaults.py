"""What a recipe leaves out comes from its base, its stage 1 or its checkpoint, and is said."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from llava_mocle.cli.main import main
from llava_mocle.data.template_names import TEMPLATE_NAMES
from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.model import load_model
from llava_mocle.recipe.recipe import Recipe, load_recipe
from llava_mocle.training.run import train
from llava_mocle.training.setup.base_defaults import settle


def without(recipe: Path, *keys: str) -> Path:
    values = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({key: value for key, value in values.items() if key not in keys}))
    return recipe


def says(folder: Path, base: Path, **changes: object) -> Path:
    """A copy of a base folder whose files say something else."""
    shutil.copytree(base, folder)
    for name, value in changes.items():
        if name == "template":
            (folder / "llava_mocle.json").write_text(json.dumps({"template": value}))
        else:
            config = json.loads((folder / "config.json").read_text())
            config["text_config"][name] = value
            (folder / "config.json").write_text(json.dumps(config))
    return folder


def settled(path: Path, *words: str) -> Recipe:
    return settle(load_recipe(path, words)).recipe


def test_the_bases_own_template_is_trained_kept_and_answered_with(
    recipe_file, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    """The tiny base says {"template": "chat"}."""
    path = without(recipe_file(max_steps=1), "version")
    assert main(["train", str(path), "--dry-run"]) == 0
    assert "template    chat (the base's own)" in capsys.readouterr().out
    trainer = train(load_recipe(path))
    assert trainer.data.train.encoder.template.name == "chat"
    assert "template    chat (the base's own)" in capsys.readouterr().out
    assert "trains under" not in caplog.text
    run = tmp_path / "run"
    assert yaml.safe_load((run / "recipe.yaml").read_text())["version"] == "chat"
    assert load_model(run).template == "chat"


def test_another_template_is_said_at_the_start_and_stays_with_the_adapter(
    recipe_file, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {"max_steps": 1, "model_max_length": 512, "save_strategy": "steps", "save_steps": 1}
    path = recipe_file(**keys)
    assert main(["train", str(path), "--dry-run", "--version", "v1"]) == 0
    assert "template    vicuna_v1 (the base was made for chat)" in capsys.readouterr().out
    warning = "version is 'vicuna_v1': this run trains under vicuna_v1, and the base "
    assert warning in caplog.text
    caplog.clear()
    assert train(load_recipe(path, ["--version", "v1"])).data.train.encoder.template.name == "vicuna_v1"
    assert warning in caplog.text
    assert load_model(tmp_path / "run").template == "vicuna_v1"
    # A dry run of a recipe that leaves it out says what the run would go on under.
    more = without(recipe_file(**keys), "version")
    capsys.readouterr()
    assert main(["train", str(more), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "template    vicuna_v1 (the base was made for chat)" in told
    assert f"resumes     {tmp_path / 'run' / 'checkpoint-1'}" in told


@pytest.mark.parametrize("words", [["--dry-run"], []])
def test_an_unknown_template_is_refused_at_once(recipe_file, words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["train", str(recipe_file()), "--version", "foo", *words]) == 2
    told = capsys.readouterr().err
    assert "'foo'" in told
    assert all(name in told for name in TEMPLATE_NAMES)


def test_a_run_of_before_goes_on(recipe_file, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Recipes had `version: vicuna_v1` where nothing was said, whatever the base was made for."""
    keys = {"save_strategy": "steps", "save_steps": 1, "model_max_length": 512}
    train(load_recipe(recipe_file(**keys), ["--version", "vicuna_v1", "--stop_after_steps", "1"]))
    trainer = train(load_recipe(without(recipe_file(**keys), "version", "model_max_length"), []))
    assert trainer.state.global_step == 4
    assert trainer.data.train.encoder.template.name == "vicuna_v1"
    assert trainer.data.train.encoder.max_length == 512
    assert "the checkpoint was trained with version 'vicuna_v1': this run trains under vicuna_v1" in caplog.text
    with pytest.raises(ConfigError, match="version: 'vicuna_v1' then, 'chat' now"):
        train(load_recipe(recipe_file(**keys), ["--version", "chat"]))


def test_stage_1_may_choose_plain(recipe_file, caplog: pytest.LogCaptureFixture) -> None:
    found = settle(load_recipe(recipe_file(version="plain", stage="pretrain")))
    assert found.recipe.data.version == "plain"
    assert found.warnings == []
    assert "trains under plain" in settle(load_recipe(recipe_file(version="plain"))).warnings[0]


def test_a_stage_1_folder_takes_the_template_of_its_base(recipe_file, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stage1"
    folder.mkdir()
    (folder / "mm_projector_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    (folder / "recipe.yaml").write_text("version: plain\nimage_aspect_ratio: square\nmodel_max_length: 64\n")
    data = settled(without(recipe_file(model_name_or_path=str(folder)), "version", "model_max_length")).data
    assert (data.version, data.image_aspect_ratio) == ("chat", "square")


def test_images_and_length_are_the_bases_too(recipe_file, base: Path, tmp_path: Path) -> None:
    short = says(tmp_path / "short", base, image_aspect_ratio="square", max_position_embeddings=96)
    path = without(recipe_file(model_name_or_path=str(short)), "model_max_length")
    assert (settled(path).data.image_aspect_ratio, settled(path).data.model_max_length) == ("square", 96)
    found = settle(load_recipe(path, ["--image_aspect_ratio", "pad", "--model_max_length", "128"]))
    assert (found.recipe.data.image_aspect_ratio, found.recipe.data.model_max_length) == ("pad", 128)
    assert "images      pad (the base was trained with square)" in found.lines
    assert any("takes 96 tokens" in text for text in found.warnings)
    tiles = says(tmp_path / "tiles", base, image_aspect_ratio="anyres")
    with pytest.raises(ConfigError, match="trained with 'anyres', which is not here; set it to pad or square"):
        settled(recipe_file(model_name_or_path=str(tiles)))


@pytest.mark.parametrize("said", ["foo", None])
def test_a_base_that_says_nothing_or_nonsense(recipe_file, base: Path, tmp_path: Path, said: str | None) -> None:
    odd = says(tmp_path / "odd", base, template=said or "chat")
    if said is None:
        (odd / "llava_mocle.json").unlink()
        for file in odd.glob("*"):
            if file.name == "chat_template.jinja":
                file.unlink()
            elif file.name in ("tokenizer_config.json", "processor_config.json"):
                values = json.loads(file.read_text())
                values.pop("chat_template", None)
                values["eos_token"] = "<|end|>"  # so that it is no Vicuna
                file.write_text(json.dumps(values))
    path = without(recipe_file(model_name_or_path=str(odd)), "version")
    with pytest.raises(ConfigError, match=r"version is not set, and .*odd: .*; set version to one of vicuna_v1"):
        settled(path)
    assert settled(path, "--version", "mistral").data.version == "mistral"


def test_a_template_file_that_cannot_be_read(recipe_file, base: Path, tmp_path: Path) -> None:
    path = recipe_file(model_name_or_path=str(says(tmp_path / "odd", base, template=5)))
    with pytest.raises(CheckpointError, match=r"llava_mocle\.json: template is 5"):
        settled(path)


def test_a_projector_knows_the_features_that_it_was_trained_on(recipe_file, base: Path, tmp_path: Path) -> None:
    stage1 = tmp_path / "stage1"
    stage1.mkdir()
    config = json.loads((base / "config.json").read_text()) | {"vision_feature_layer": -1}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    (stage1 / "mm_projector_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "other")}))
    (stage1 / "mm_projector.safetensors").touch()
    keys = {"vision_tower": str(base), "pretrain_mm_mlp_adapter": str(stage1)}
    assert settled(recipe_file(**keys)).model.mm_vision_select_layer == -1
    assert settled(recipe_file(**keys)).model.mm_vision_select_feature == "patch"
    found = settle(load_recipe(recipe_file(**keys), ["--mm_vision_select_layer", "-2"]))
    assert found.recipe.model.mm_vision_select_layer == -2
    assert "mm_vision_select_layer is -2, but the projector" in found.warnings[0]
    # LLaVA's own stage 1 says it in its config.json.
    (stage1 / "mm_projector_config.json").unlink()
    (stage1 / "config.json").write_text(json.dumps({"mm_vision_tower": "clip", "mm_vision_select_layer": -3}))
    assert settled(recipe_file(**keys)).model.mm_vision_select_layer == -3
