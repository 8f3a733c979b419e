"""A run, and what it leaves, belongs to one base: another one is refused before it does anything."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llava_mocle.adapter.config import BASE_RECORD
from llava_mocle.cli.main import main
from llava_mocle.errors import CheckpointError
from llava_mocle.inference import Predictor
from llava_mocle.model.base_identity import difference, identify, read_identity
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.dry_run import dry_run
from llava_mocle.training.run import train
from tests.model.checkpoints import write_original


def change_weights(folder: Path, part: str = "") -> None:
    """Other frozen weights of the same shapes."""
    path = next(folder.glob("*.safetensors"))
    weights = load_file(path)
    for name, value in weights.items():
        if part in name:
            value.add_(0.01)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.fixture
def own_base(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "base"))


@pytest.fixture
def other_base(base: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(base, tmp_path / "other"))
    change_weights(folder)
    return folder


@pytest.fixture
def begun(recipe_file, own_base: Path) -> Path:
    """The recipe of a run that has two of its steps."""
    recipe = recipe_file(model_name_or_path=str(own_base), save_strategy="steps", save_steps=2)
    train(load_recipe(recipe, ["--stop_after_steps", "2"]))
    return recipe


@pytest.mark.parametrize("part", ["", "layers.1.mlp", "vision_tower"])
def test_a_folder_that_was_replaced_before_a_resume(begun: Path, own_base: Path, tmp_path: Path, part: str) -> None:
    change_weights(own_base, part)
    with pytest.raises(CheckpointError) as caught:
        train(load_recipe(begun))
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'run' / 'checkpoint-2'}: was trained on another base than {own_base}: other ")
    assert part in said
    assert "--allow_other_base true" in said
    assert not (tmp_path / "run" / "checkpoint-4").exists()
    with pytest.raises(CheckpointError) as caught:
        dry_run(load_recipe(begun)).found.refuse()
    assert str(caught.value) == said


def test_going_on_with_another_base_on_purpose(begun: Path, own_base: Path, tmp_path: Path, caplog) -> None:
    """From then on the run belongs to that one."""
    change_weights(own_base)
    assert train(load_recipe(begun, ["--allow_other_base", "true"])).state.global_step == 4
    assert "was trained on another base than" in caplog.text
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-4"):
        recorded = read_identity(folder)
        assert recorded is not None
        assert difference(recorded, identify(own_base)) is None


def test_a_finished_run_too(recipe_file, own_base: Path) -> None:
    recipe = recipe_file(model_name_or_path=str(own_base))
    train(load_recipe(recipe))
    change_weights(own_base)
    with pytest.raises(CheckpointError, match="was trained on another base"):
        train(load_recipe(recipe))


def test_the_projector_may_have_been_trained_meanwhile(begun: Path, own_base: Path) -> None:
    """It is in every checkpoint, so the base's own is not used."""
    change_weights(own_base, "multi_modal_projector")
    assert train(load_recipe(begun)).state.global_step == 4


def test_a_base_that_is_joined_again_from_other_parts(recipe_file, base: Path, tmp_path: Path) -> None:
    llama = Path(shutil.copytree(base.parent / "llama", tmp_path / "llama"))
    keys = {"model_name_or_path": str(llama), "vision_tower": str(base.parent / "clip")}
    recipe = recipe_file(**keys, save_strategy="steps", save_steps=2)
    train(load_recipe(recipe, ["--stop_after_steps", "2"]))
    change_weights(llama)
    # The joined base is what it was, so the run goes on; without it, another one would be made.
    shutil.rmtree(tmp_path / "run" / "base")
    with pytest.raises(CheckpointError, match=r"checkpoint-2: was trained on another base than .*run/base"):
        train(load_recipe(recipe))


def test_the_tower_of_an_original_folder(recipe_file, base: Path, tmp_path: Path) -> None:
    clip = Path(shutil.copytree(base.parent / "clip", tmp_path / "clip"))
    original = write_original(tmp_path / "original", base, "openai/none", with_tower=False, suffix=".bin")
    keys = {"model_name_or_path": str(original), "vision_tower": str(clip), "version": "vicuna_v1"}
    keys |= {"model_max_length": 512}
    recipe = recipe_file(**keys, save_strategy="steps", save_steps=2)
    train(load_recipe(recipe, ["--stop_after_steps", "2"]))
    change_weights(clip)
    with pytest.raises(CheckpointError, match=r"other weights in vision_tower\."):
        train(load_recipe(recipe))
    with pytest.raises(CheckpointError, match=r"other weights in vision_tower\."):
        Predictor.from_pretrained(tmp_path / "run" / "checkpoint-2", device="cpu", vision_tower=clip)
    again = Predictor.from_pretrained(
        tmp_path / "run" / "checkpoint-2", device="cpu", vision_tower=base.parent / "clip"
    )
    # Two towers, two models: their answers are not mixed in one file.
    other = Predictor.from_pretrained(
        tmp_path / "run" / "checkpoint-2", device="cpu", vision_tower=clip, allow_other_base=True
    )
    assert again.model_id != other.model_id


def test_stage_2_on_what_stage_1_left(recipe_file, own_base: Path, other_base: Path, tmp_path: Path) -> None:
    """A stage-1 folder as the model, its folder as the projector, or its file: the base must be stage 1's."""
    train(load_recipe(recipe_file(model_name_or_path=str(own_base), stage="pretrain", max_steps=1)))
    stage_1 = Path(shutil.move(tmp_path / "run", tmp_path / "stage1"))
    assert read_identity(stage_1) is not None
    begin = recipe_file(model_name_or_path=str(stage_1), max_steps=1)
    train(load_recipe(begin, ["--output_dir", str(tmp_path / "on stage 1")]))
    for projector in (stage_1, stage_1 / "mm_projector.safetensors"):
        words = ["--model_name_or_path", str(other_base), "--pretrain_mm_mlp_adapter", str(projector)]
        with pytest.raises(CheckpointError, match=rf"^{stage_1}: was trained on another base than {other_base}"):
            train(load_recipe(begin, words))
    words = ["--model_name_or_path", str(own_base), "--pretrain_mm_mlp_adapter", str(stage_1)]
    train(load_recipe(begin, [*words, "--output_dir", str(tmp_path / "with projector")]))
    shutil.rmtree(own_base)
    shutil.move(other_base, own_base)
    with pytest.raises(CheckpointError, match=rf"^{stage_1}: was trained on another base than {own_base}"):
        train(load_recipe(begin))
    with pytest.raises(CheckpointError, match="was trained on another base"):
        Predictor.from_pretrained(tmp_path / "on stage 1", device="cpu")


def test_the_commands(recipe_file, own_base: Path, other_base: Path, tmp_path: Path, mix, capsys, caplog) -> None:
    train(load_recipe(recipe_file(model_name_or_path=str(own_base), max_steps=1)))
    run, other = str(tmp_path / "run"), ["--base", str(other_base)]
    commands = {
        "generate": ["--prompt", "What?", "--max-new-tokens", "2", "--device", "cpu"],
        "eval": ["--rows", mix[1]["eval_data_path"], "--output", str(tmp_path / "out"), "--limit", "1"],
        "collapse": ["--cluster", "1", "--output", str(tmp_path / "exported")],
    }
    for command, words in commands.items():
        assert main([command, "--model", run, *words, *other]) == 2
        assert f"error: {run}: was trained on another base than {other_base}" in capsys.readouterr().err
        caplog.clear()
        assert main([command, "--model", run, *words, *other, "--allow-other-base"]) == 0
        assert "going on with the other one" in caplog.text
        caplog.clear()
    capsys.readouterr()
    # What was exported belongs to the base that the run was trained on.
    exported = tmp_path / "exported"
    assert (exported / BASE_RECORD).read_text() == (tmp_path / "run" / BASE_RECORD).read_text()
    assert main(["generate", "--model", str(exported), *commands["generate"], *other]) == 2
    assert main(["generate", "--model", str(exported), *commands["generate"]]) == 0
    assert "another base" not in caplog.text


def test_a_name_that_stands_for_another_folder_elsewhere(
    recipe_file, own_base: Path, other_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(load_recipe(recipe_file(model_name_or_path="base", max_steps=1)))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(other_base, elsewhere / "base")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(CheckpointError, match=rf"another base than {elsewhere / 'base'}: .*Its base was in {own_base}"):
        Predictor.from_pretrained(tmp_path / "run", device="cpu")
    Predictor.from_pretrained(tmp_path / "run", device="cpu", base=own_base)


def test_the_record_is_of_the_files(recipe_file, own_base: Path, tmp_path: Path) -> None:
    """bfloat16 in memory, and the folder elsewhere, give the same record but for the folder's name."""
    found = []
    for number, dtype in enumerate(("float32", "bfloat16")):
        place = Path(shutil.copytree(own_base, tmp_path / f"base{number}"))
        output = tmp_path / f"run{number}"
        keys = {"model_name_or_path": str(place), "dtype": dtype, "bf16": dtype == "bfloat16", "max_steps": 1}
        train(load_recipe(recipe_file(**keys, output_dir=str(output))))
        found.append(json.loads((output / BASE_RECORD).read_text()))
        assert found[-1].pop("folder") == str(place)
    assert found[0] == found[1]


def test_a_checkpoint_of_before_has_no_record_and_goes_on(begun: Path, own_base: Path, tmp_path: Path, caplog) -> None:
    checkpoint = tmp_path / "run" / "checkpoint-2"
    (checkpoint / BASE_RECORD).unlink()
    manifest = json.loads((checkpoint / "checkpoint.json").read_text())
    del manifest["files"][BASE_RECORD]
    (checkpoint / "checkpoint.json").write_text(json.dumps(manifest))
    change_weights(own_base)
    caplog.clear()
    assert train(load_recipe(begun)).state.global_step == 4
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("llava_mocle")]
    assert "base" not in "\n".join(ours).replace(str(tmp_path), "")
