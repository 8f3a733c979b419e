"""Whole runs of InstructBLIP: resumed, checkpointed, as baselines, and on two processes against one."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import get_scheduler

from llava_mocle.inference import Predictor
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train
from tests.tiny_instructblip import QUERIES, save_instructblip
from tests.training.ranks import ROOT, ZERO, history, run

STEPS = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1}
# float32 sums in another order: 1e-6 is eight units in the last place.
FLOAT32 = 1e-6


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_a_run_that_goes_on_ends_as_one_without_a_break_to_the_bit(instructblip_recipe, tmp_path: Path) -> None:
    whole = train(load_recipe(instructblip_recipe(**STEPS, output_dir=str(tmp_path / "whole"))))
    recipe = instructblip_recipe(**STEPS)
    train(load_recipe(recipe, ["--stop_after_steps", "2"]))
    train(load_recipe(recipe))
    assert whole.state.global_step == 4
    assert history(tmp_path / "run") == history(tmp_path / "whole")
    found, expected = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_gradient_checkpointing_changes_nothing(instructblip_recipe, tmp_path: Path) -> None:
    found = {}
    for name, options in {"plain": {}, "checkpointed": {"gradient_checkpointing": True}}.items():
        # Recomputed, the Q-Former's dropout draws the same numbers again.
        keys = {"gate_noise_std": 0.0, "logging_steps": 1, "output_dir": str(tmp_path / name)}
        train(load_recipe(instructblip_recipe(**keys, **options)))
        found[name] = [value for step in history(tmp_path / name) for value in step]
    assert len(found["plain"]) == 8
    assert found["checkpointed"] == pytest.approx(found["plain"], rel=FLOAT32)


@pytest.mark.parametrize("adapter", ["lora", "cluster", "dataset"])
def test_baselines_train_the_same_parts_beside_the_adapter(adapter: str, instructblip_recipe, tmp_path: Path) -> None:
    train(load_recipe(instructblip_recipe(max_steps=1), ["--adapter", adapter]))
    beside = {name.removeprefix("base_model.model.") for name in weights(tmp_path / "run") if "mocle_" not in name}
    assert "query_tokens" in beside
    assert {name.split(".")[0] for name in beside} == {
        "query_tokens", "qformer", "language_projection", "vision_model"
    }  # fmt: skip
    answer = Predictor.from_pretrained(tmp_path / "run").predict(
        Path(yaml.safe_load(instructblip_recipe().read_text())["datasets"][0]["image_folder"], "0.png"),
        "is it red?",
        max_new_tokens=2,
        dataset="pictures",
    )
    assert answer.num_tokens <= 2


def test_the_card_names_the_kind(instructblip_recipe, tmp_path: Path) -> None:
    train(load_recipe(instructblip_recipe(max_steps=1)))
    text = (tmp_path / "run" / "README.md").read_text()
    assert "A vision-language model of the InstructBLIP kind" in text
    assert "- instructblip" in text


def test_a_held_out_loss_is_found(instructblip_recipe, instructblip_rows: Path) -> None:
    rows = str(instructblip_rows / "rows.json")
    datasets = [{"name": "pictures", "data_path": rows, "image_folder": str(instructblip_rows), "eval_data_path": rows}]
    trainer = train(load_recipe(instructblip_recipe(datasets=datasets, eval_strategy="steps", eval_steps=4)))
    assert any("eval_loss_pictures" in entry for entry in trainer.state.log_history)
    assert trainer.family.image_tokens_per_image == QUERIES


def test_the_papers_schedule_and_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 steps from 1e-8 to 1e-5, then a cosine to 0 at step 60,000 (appendix D)."""
    monkeypatch.chdir(ROOT)
    recipe = load_recipe("scripts/recipes/instructblip_vicuna_7b_mocle.yaml")
    args = recipe.training_arguments(report_to="none", bf16=False)
    assert (args.adam_beta1, args.adam_beta2, args.weight_decay, args.max_steps) == (0.9, 0.999, 0.05, 60_000)
    assert args.per_device_train_batch_size * 8 == 128
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    schedule = get_scheduler(
        args.lr_scheduler_type, optimizer, args.warmup_steps, args.max_steps, args.lr_scheduler_kwargs
    )
    (rate,) = schedule.lr_lambdas
    expected = {0: 1e-8, 500: 5e-6, 1_000: 1e-5, 30_500: 5e-6, 60_000: 0.0}
    for step, value in expected.items():
        assert args.learning_rate * rate(step) == pytest.approx(value, rel=2e-3, abs=1e-12), step
    assert len(recipe.data.dataset_specs()) == 13
    assert {spec.weight for spec in recipe.data.dataset_specs()} == {"sqrt_size"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "words"),
    [(2, []), (2, ["--deepspeed", ZERO[2]]), (2, ["--deepspeed", ZERO[3]])],
    ids=["ddp", "zero2", "zero3"],
)
def test_two_processes_equal_one(count: int, words: list[str], instructblip_recipe, tmp_path: Path) -> None:
    """Batches mix pictures and a video; their losses and gradient norms, and what the checkpoint holds."""
    # Without gate noise and dropout, of which each rank draws its own.
    base = save_instructblip(tmp_path / "base", dropout=0.0)
    recipe = instructblip_recipe(gate_noise_std=0.0, logging_steps=1, learning_rate=0.003, model_name_or_path=str(base))
    seen = []
    for name, processes, more in (("one", 1, []), ("two", count, words)):
        batch = ["--per_device_train_batch_size", str(4 // processes), "--output_dir", str(tmp_path / name)]
        run(tmp_path / f"logs_{name}", recipe, *batch, *more, count=processes)
        seen.append(history(tmp_path / name))
    assert len(seen[0]) == 4
    for alone, together in zip(*seen, strict=True):
        assert together == pytest.approx(alone, rel=FLOAT32)
    assert weights(tmp_path / "one").keys() == weights(tmp_path / "two").keys()
    assert Predictor.from_pretrained(tmp_path / "two").kind == "adapter"
