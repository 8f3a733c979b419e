"""The commands on tiny models with a processor: train, resume, generate, eval, collapse; and what they refuse."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file

from llava_mocle.cli.main import main
from llava_mocle.errors import ConfigError
from llava_mocle.inference.predictor import Predictor
from llava_mocle.inference.request import Request
from llava_mocle.model.load import load_model
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.dry_run import dry_run
from llava_mocle.training.run import train
from tests.families.tiny import save_tiny
from tests.training import ranks

# Models whose image tensors have different shapes: tiles of an image, patches of all images, images of a sample.
RUN = ["llava_next", "qwen2_5_vl", "smolvlm"]
# A user says the folder and nothing else of the model.
NOTHING_SAID = {"version": None, "model_max_length": None}


@pytest.fixture(scope="module", params=RUN)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(request.param, tmp_path_factory.mktemp("model") / request.param)


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_a_run_from_the_folder_to_answers(folder: Path, recipe_file, mix: list[dict], tmp_path: Path, capsys) -> None:
    common = NOTHING_SAID | {"model_name_or_path": str(folder), "max_steps": 6, "lora_dropout": 0.1}
    whole = train(load_recipe(recipe_file(output_dir=str(tmp_path / "whole"), **common)))
    path = recipe_file(output_dir=str(tmp_path / "parts"), **common)
    train(load_recipe(path, ["--stop_after_steps", "3"]))
    again = train(load_recipe(path))
    # Resumed is uninterrupted, to the bit.
    assert losses(again)[3:] == losses(whole)[3:]
    expected, found = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "parts"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    beside = {name for name in expected if "mocle" not in name}
    assert any("multi_modal_projector" in name or "merger" in name or "connector" in name for name in beside)
    assert any("image_newline" in name for name in beside) == (folder.name == "llava_next")

    run = str(tmp_path / "whole")
    picture = tmp_path / "picture.png"
    Image.new("RGB", (90, 33), (220, 30, 30)).save(picture)
    arguments = ["generate", "--model", run, "--image", str(picture), "--prompt", "What colour?", "--json"]
    assert main([*arguments, "--max-new-tokens", "4", "--device", "cpu"]) == 0
    answer = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    predictor = Predictor.from_pretrained(run, device="cpu")
    asked = Request("What colour?", str(picture))
    assert answer["text"] == predictor.predict_batch([asked], max_new_tokens=4)[0].text
    # Images of several sizes and none, in one batch.
    requests = [asked, Request("And here?", [str(picture), Image.new("RGB", (20, 50))]), Request("How much?")]
    together = predictor.predict_batch(requests, max_new_tokens=4)
    assert [one.text for one in together] == [predictor.predict_batch([r], max_new_tokens=4)[0].text for r in requests]
    scores = predictor.rank(asked, ["red", "green, or blue"]).scores
    assert len(scores) == 2
    assert predictor.length(asked) > 20

    rows, out = mix[0]["eval_data_path"], tmp_path / "out"
    words = ["eval", "--model", run, "--rows", rows, "--image-folder", mix[0]["image_folder"], "--device", "cpu"]
    assert main([*words, "--output", str(out), "--max-new-tokens", "3"]) == 0
    assert json.loads((out / "results.json").read_text())["domains"]["pictures_test"]["n"] == 5
    assert main(["collapse", "--model", run, "--cluster", "1", "--output", str(tmp_path / "lora")]) == 0
    plain = PeftModel.from_pretrained(load_model(folder).model, tmp_path / "lora").eval()
    batch = predictor.encoder.collator()([predictor.encoder.prompt(predictor._turns(asked), asked.image_list)])
    with torch.no_grad():
        expected_logits = predictor.model(**batch, cluster_ids=torch.tensor([1])).logits
        torch.testing.assert_close(plain(**batch).logits, expected_logits, atol=1e-5, rtol=1e-5)


def test_micro_batches_change_nothing(folder: Path, recipe_file, tmp_path: Path) -> None:
    """The loss is over the supervised tokens of the global batch, whatever the model's class says of its loss."""
    common = NOTHING_SAID | {"model_name_or_path": str(folder), "max_steps": 3, "gate_noise_std": 0.0}
    found = []
    for size in (8, 2):
        words = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
        trainer = train(load_recipe(recipe_file(output_dir=str(tmp_path / str(size)), **common, **words)))
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        found.append([(entry["loss"], entry["grad_norm"]) for entry in log])
    for one, several in zip(*found, strict=True):
        # Float32 sums in another order; a mean of means would be off by 3e-3.
        assert several == pytest.approx(one, rel=2e-5)


def test_what_is_said_at_the_start(folder: Path, recipe_file) -> None:
    found = dry_run(load_recipe(recipe_file(model_name_or_path=str(folder), **NOTHING_SAID)))
    name = {"llava_next": "LLaVA-NeXT", "qwen2_5_vl": "Qwen2.5-VL", "smolvlm": "SmolVLM"}[folder.name]
    assert f"{name:<11} adapts up_proj,down_proj; trains" in found.text
    assert "template    chat (the base's own)" in found.text
    assert "images      square" in found.text
    assert "parameters  experts" in found.text
    found.found.refuse()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "pretrain"}, "stage is 'pretrain'.*kind, which has no stage 1"),
        ({"vision_tower": "."}, "vision_tower is '.'.*no tower or projector of another folder; leave vision_tower out"),
        ({"version": "vicuna_v1"}, "version is 'vicuna_v1'.*which has chat alone: leave version out"),
    ],
)
def test_what_is_refused_before_weights(
    folder: Path, recipe_file, changes: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(recipe_file(**NOTHING_SAID | {"model_name_or_path": str(folder)} | changes))
    monkeypatch.setattr("llava_mocle.model.load.load_whole", lambda *args, **options: pytest.fail("weights were read"))
    with pytest.raises(ConfigError, match=message):
        train(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llava_next", "qwen3_vl"])
@pytest.mark.parametrize("zero", [None, 3], ids=["ddp", "zero3"])
def test_two_processes_equal_one(kind: str, zero: int | None, recipe_file, tmp_path: Path) -> None:
    """In one of the steps, one process has images and the other has none: it runs the blank one."""
    common = {"model_name_or_path": str(save_tiny(kind, tmp_path / "base")), "max_steps": 9, "num_train_epochs": 1}
    common |= NOTHING_SAID | {"gate_noise_std": 0.0}
    histories = []
    for count in (1, 2):
        recipe = recipe_file(
            output_dir=str(tmp_path / f"run{count}"), per_device_train_batch_size=10 // count, **common
        )
        words = ["--deepspeed", ranks.ZERO[zero]] if zero and count == 2 else []
        ranks.run(tmp_path / f"logs{count}", recipe, *words, count=count)
        histories.append(ranks.history(tmp_path / f"run{count}"))
    assert len(histories[0]) == len(histories[1]) == 9
    for one, two in zip(*histories, strict=True):
        # As in the runs of LLaVA: float32 sums over two processes in another order.
        assert two == pytest.approx(one, rel=2e-5)
