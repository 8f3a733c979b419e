"""What a folder names may have moved: the command line says where to."""

import json
import shutil
from pathlib import Path

import pytest

from llava_mocle.cli.main import main
from llava_mocle.errors import CheckpointError
from llava_mocle.evaluation import model_vqa
from llava_mocle.inference import Predictor
from llava_mocle.model import build_llava
from tests.inference import tiny
from tests.model import parts
from tests.model.checkpoints import write_original


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A folder of the original code whose tower is not where its config says; the tower is `clip` beside it."""
    folder = tmp_path_factory.mktemp("original")
    clip = parts.save_clip(folder / "clip")
    base = build_llava(parts.save_language_model(folder / "llama"), clip, folder / "base")
    made = write_original(folder / "model", base, clip, with_tower=False, suffix=".bin")
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps(config | {"mm_vision_tower": "openai/clip-elsewhere"}))
    return made


def test_generate_with_an_original_folder_and_its_tower(original, images, capsys):
    asked = ["generate", "--model", str(original), "--image", str(images[0]), "--prompt", "What?"]
    asked += ["--max-new-tokens", "3", "--device", "cpu"]
    assert main(asked) == 2
    assert "vision_tower=" in capsys.readouterr().err
    assert main([*asked, "--vision-tower", str(original.parent / "clip")]) == 0
    assert "no cluster" in capsys.readouterr().out


def test_an_encoder_that_moved(checkpoint_dir, encoder_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint_dir, folder)
    path = folder / "clusters" / "config.json"
    path.write_text(path.read_text().replace(str(encoder_dir), str(tmp_path / "gone")))
    expected = Predictor.from_pretrained(checkpoint_dir, device="cpu").explain(tiny.QUESTIONS[0])
    with pytest.raises(Exception, match="gone"):
        Predictor.from_pretrained(folder, device="cpu").explain(tiny.QUESTIONS[0])
    moved = Predictor.from_pretrained(folder, device="cpu", encoder=encoder_dir)
    assert moved.explain(tiny.QUESTIONS[0]).cluster_id == expected.cluster_id


@pytest.mark.parametrize("command", ["generate", "eval", "model_vqa"])
def test_every_command_passes_the_places_on(command, tmp_path, monkeypatch):
    (tmp_path / "rows.json").write_text(
        json.dumps([{"id": 1, "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}])
    )
    (tmp_path / "questions.jsonl").write_text(json.dumps({"question_id": 1, "text": "q"}) + "\n")
    places = ["--vision-tower", "a/tower", "--encoder", "an/encoder"]
    given = {}

    def stop(path, **options):
        given.update(options)
        raise CheckpointError("far enough")

    monkeypatch.setattr(Predictor, "from_pretrained", stop)
    if command == "model_vqa":
        files = [
            "--question-file",
            str(tmp_path / "questions.jsonl"),
            "--answers-file",
            str(tmp_path / "answers.jsonl"),
        ]
        assert model_vqa.main(["--model-path", "x", *files, *places]) == 2
    else:
        rest = {"generate": ["--prompt", "q"], "eval": ["--rows", str(tmp_path / "rows.json"), "--output", "out"]}
        assert main([command, "--model", "x", *rest[command], *places]) == 2
    assert (given["vision_tower"], given["encoder"]) == ("a/tower", "an/encoder")


def test_a_stage_1_folder_of_plain_is_asked_the_question(base_dir, tmp_path, images):
    folder = tiny.write_stage1(tmp_path / "stage1", base_dir)
    (folder / "recipe.yaml").write_text("version: plain\n")
    predictor = Predictor.from_pretrained(folder, device="cpu", dtype="float32")
    assert predictor.template.name == "vicuna_v1"
    answers = {predictor.predict(images[0], question, max_new_tokens=6).text for question in tiny.QUESTIONS}
    assert len(answers) > 1, "the question makes no difference"
