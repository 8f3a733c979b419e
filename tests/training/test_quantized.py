"""Runs on a base in 4 and 8 bit: they learn, go on to the bit, and leave checkpoints for any base."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from llava_mocle.adapter.collapse import collapse
from llava_mocle.errors import ConfigError
from llava_mocle.inference import Predictor
from llava_mocle.model.load import load_model
from llava_mocle.model.quantization import Quantization, stored_bits
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train
from tests.training.ranks import ZERO, history, run

WEIGHTS = "adapter_model.safetensors"
CHECKPOINTING = {"gradient_checkpointing": True}


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("keys", [
    {"bits": 4}, {"bits": 8},
    *(pytest.param(keys, marks=pytest.mark.slow) for keys in (
        {"bits": 4, "double_quant": False, "quant_type": "fp4"} | CHECKPOINTING,
        {"bits": 4, "dtype": "bfloat16", "bf16": True},
        {"bits": 8, "bf16": True} | CHECKPOINTING,
    )),
], ids=str)  # fmt: skip
def test_the_loss_falls_and_the_base_stays(keys: dict, recipe_file, capsys) -> None:
    # Every row twice: 73 samples make 19 steps an epoch.
    trainer = train(load_recipe(recipe_file(max_steps=38, gate_noise_std=0.0, **keys)))
    found = losses(trainer)
    assert sum(found[-5:]) < 0.75 * sum(found[:5])
    model = trainer.model
    assert stored_bits(model) == keys["bits"]
    dtypes = {p.dtype for name, p in model.named_parameters() if "proj.base_layer" in name}
    assert dtypes == {torch.uint8 if keys["bits"] == 4 else torch.int8}
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    assert trained == {torch.float32}
    assert {p.dtype for name, p in model.named_parameters() if "layernorm" in name and "language" in name} == {
        torch.float32
    }
    whole = load_model(str(model.peft_config["default"].base_model_name_or_path)).model
    count = sum(p.numel() for p in whole.parameters()) + sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f" of {count:,} parameters" in capsys.readouterr().out  # and not of packed bytes


@pytest.mark.parametrize("bits", [4, 8])
def test_a_run_that_goes_on_is_the_uninterrupted_run(bits: int, recipe_file, tmp_path: Path) -> None:
    keys = {"bits": bits, "max_steps": 4, "lora_dropout": 0.1, "eval_strategy": "steps", "eval_steps": 2}
    whole = train(load_recipe(recipe_file(output_dir=str(tmp_path / "whole"), **keys)))
    path = recipe_file(output_dir=str(tmp_path / "parts"), **keys)
    assert train(load_recipe(path, ["--stop_after_steps", "2"])).state.global_step == 2
    second = train(load_recipe(path))
    assert losses(second) == losses(whole)
    expected, found = load_file(tmp_path / "whole" / WEIGHTS), load_file(tmp_path / "parts" / WEIGHTS)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    with pytest.raises(ConfigError, match="bits"):  # another base would be another run
        train(load_recipe(path, ["--bits", "16", "--max_steps", "6"]))


@pytest.fixture
def trained(recipe_file, tmp_path: Path) -> Path:
    train(load_recipe(recipe_file(bits=4, save_strategy="steps", save_steps=4)))
    return tmp_path / "run"


def test_a_checkpoint_holds_no_base_and_loads_on_any(trained: Path, base: Path, tmp_path: Path) -> None:
    names = {name for folder in (trained, trained / "checkpoint-4") for name in load_file(folder / WEIGHTS)}
    assert all("mocle_" in name or "multi_modal_projector" in name for name in names)
    size = sum(file.stat().st_size for file in (base).glob("*.safetensors"))
    assert (trained / WEIGHTS).stat().st_size < size / 4
    question = "What colour is picture 3?"
    answers = {}
    for bits in (4, 8, 16):
        predictor = Predictor.from_pretrained(trained, bits=bits)
        assert stored_bits(predictor.model) == bits
        assert (f"bits={bits}" in predictor.settings) == (bits < 16)
        answers[bits] = predictor.predict(None, question, max_new_tokens=4)
    assert len({answer.cluster_id for answer in answers.values()}) == 1
    assert all(answer.num_tokens for answer in answers.values())


def test_it_collapses_from_a_quantized_base_as_from_a_full_one(trained: Path, base: Path, tmp_path: Path) -> None:
    quantized, full = load_model(trained, quantization=Quantization(4)), load_model(trained)
    for name, loaded in {"quantized": quantized, "full": full}.items():
        collapse(loaded.model, 1, tmp_path / name)
    expected, found = (load_file(tmp_path / name / WEIGHTS) for name in ("full", "quantized"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    plain = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(base), tmp_path / "quantized")
    ids = full.tokenizer(question := "How much is 3 and 3?", return_tensors="pt").input_ids
    with torch.no_grad():
        routed = full.model(input_ids=ids, cluster_ids=torch.tensor([1])).logits
        # Float32: scaled before or after the product.
        torch.testing.assert_close(plain.eval()(input_ids=ids).logits, routed, atol=1e-4, rtol=0, msg=question)


def test_what_a_quantized_base_cannot_do_is_refused(recipe_file) -> None:
    for words, message in (
        (["--stage", "pretrain"], "bits is 4 in stage pretrain"),
        (["--deepspeed", ZERO[3]], "bits is 4 under ZeRO-3.* zero2.json"),
        (["--torch_compile", "true"], "bits is 4 with torch_compile"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(load_recipe(recipe_file(bits=4), words))


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["4", "8"])
def test_deepspeed_in_16_bit(bits: str, recipe_file, tmp_path: Path) -> None:
    """DeepSpeed casts what is not quantized to bfloat16, experts and norms as well."""
    path = recipe_file(gate_noise_std=0.0, max_steps=20)
    run(tmp_path, path, "--bits", bits, "--bf16", "true", "--deepspeed", ZERO[2])
    found = [loss for loss, _ in history(tmp_path / "run")]
    assert sum(found[-3:]) < 0.85 * sum(found[:3])
    run(tmp_path, path, "--bits", bits, "--bf16", "true", "--deepspeed", ZERO[2])  # a finished run: its result is read


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "words"), [("8", []), ("4", ["--deepspeed", ZERO[2]])], ids=["DDP", "ZeRO-2"])
def test_two_processes_take_the_steps_of_one(bits: str, words: list[str], recipe_file, tmp_path: Path) -> None:
    path = recipe_file(per_device_train_batch_size=8, gate_noise_std=0.0, learning_rate=0.003)
    alone, together = tmp_path / "alone", tmp_path / "together"
    run(alone, path, "--output_dir", str(alone / "run"), "--bits", bits)
    options = ["--bits", bits, "--per_device_train_batch_size", "4", *words]
    run(together, path, "--output_dir", str(together / "run"), *options, count=2)
    expected, found = history(alone / "run"), history(together / "run")
    assert len(found) == 4
    for one, other in zip(expected, found, strict=True):
        # Float32 sums over two ranks in another order, over four steps.
        assert other == pytest.approx(one, rel=1e-5)
