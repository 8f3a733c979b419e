"""Runs whose experts are chosen by token or by sentence: what they train, log, save, resume and answer."""

import json
from pathlib import Path

import pytest
import torch

from llava_mocle.cli.main import main
from llava_mocle.errors import ConfigError, RoutingError
from llava_mocle.inference import Predictor
from llava_mocle.model.load import load_model
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.dry_run import dry_run
from llava_mocle.training.run import train
from tests.model.parts import HIDDEN

BY_TOKEN = {"adapter": "token", "cluster_model": None, "balance_loss_weight": 0.1, "gate_sharing": "block"}
BY_SENTENCE = {"adapter": "sentence", "cluster_model": None, "balance_loss_weight": 0.1, "gate_bias": True}
KINDS = {"token": BY_TOKEN, "sentence": BY_SENTENCE}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_logs_its_routing_and_its_balance_and_loads_to_the_bit(recipe_file, tmp_path: Path, kind: str) -> None:
    path = recipe_file(**KINDS[kind], eval_strategy="steps", eval_steps=4)
    trainer = train(load_recipe(path))
    groups = {group["name"]: len(group["params"]) for group in trainer.optimizer.param_groups}
    # Two layers: up and down, A and B; a gate in each MLP, or the gates of all sites in one, with a bias.
    routers = {"router": 2} if kind == "token" else {"router": 1, "router_bias": 1}
    assert groups == {"experts": 8, **routers, "projector": 2, "projector_bias": 2}
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 4
    for entry in logged:
        assert sum(entry[f"routing/up_proj/expert_{expert}"] for expert in range(3)) == pytest.approx(1.0)
        assert "routing/up_proj/universal" not in entry
        assert entry["routing/balance"] > 0
    assert any("eval_loss" in entry for entry in trainer.state.log_history)
    sample = trainer.train_dataset[0]
    inputs = {key: sample[key][None] for key in ("input_ids", "instruction_ids") if key in sample}
    inputs |= {"pixel_values": sample["pixel_values"]} if "pixel_values" in sample else {}
    assert ("instruction_ids" in inputs) == (kind == "sentence")
    loaded = load_model(tmp_path / "run").model.eval()
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, trainer.model.eval()(**inputs).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_has_the_balance_loss_in_it_whatever_the_micro_batch(recipe_file, tmp_path: Path, kind: str) -> None:
    """With the token router also under accumulation; a sentence's shares are those of the micro-batch."""
    options = {**KINDS[kind], "gate_noise_std": 0.0, "max_steps": 1}
    found = []
    for number, changes in enumerate(
        (
            {"balance_loss_weight": 0.0},
            {"balance_loss_weight": 0.5},
            {"balance_loss_weight": 0.5, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        )
    ):
        output = {"output_dir": str(tmp_path / f"run{number}")}
        trainer = train(
            load_recipe(
                recipe_file(**options, **output) if not changes else recipe_file(**{**options, **output, **changes})
            )
        )
        found.append(next(entry for entry in trainer.state.log_history if "loss" in entry))
    without, whole, divided = found
    assert "routing/balance" not in without
    assert whole["loss"] == pytest.approx(without["loss"] + 0.5 * whole["routing/balance"], rel=1e-5)
    if kind == "token":
        assert divided["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert divided["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"balance_loss_weight": 0.1}, "balance_loss_weight is 0.1, but adapter 'mocle' has no such option"),
        ({"adapter": "lora", "gate_bias": True}, "gate_bias is True, but adapter 'lora'"),
        ({"adapter": "token", "gate_sharing": "model"}, "needs router='sentence'"),
        ({"adapter": "sentence", "gate_mode": "released"}, "gate_mode is 'released', but adapter 'sentence'"),
        ({"adapter": "token", "expert_weight": "one"}, "balance_loss_weight above 0"),
    ],
)
def test_contradictions_are_refused_before_anything_is_loaded(recipe_file, changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        dry_run(load_recipe(recipe_file(**changes)))


@pytest.mark.parametrize(("kind", "gates"), [("token", 2 * 3 * HIDDEN), ("sentence", 4 * 3 * (HIDDEN + 1))])
def test_a_dry_run_counts_the_gates(recipe_file, kind: str, gates: int) -> None:
    text = dry_run(load_recipe(recipe_file(**KINDS[kind]))).text
    assert f"adapter     {kind}" in text
    assert any(line.split()[1:] == ["router", f"{gates:,}"] for line in text.splitlines())


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_uninterrupted_one(recipe_file, tmp_path: Path, kind: str) -> None:
    options = {**KINDS[kind], "save_strategy": "steps", "save_steps": 2}
    whole = train(load_recipe(recipe_file(**options, output_dir=str(tmp_path / "whole"))))
    path = recipe_file(**options, output_dir=str(tmp_path / "halves"))
    train(load_recipe(path, ["--stop_after_steps", "2"]))
    if kind == "sentence":
        with pytest.raises(ConfigError, match=r"instruction_turns is 'all', but .*'first'"):
            train(load_recipe(path, ["--instruction_turns", "all"]))
    resumed = train(load_recipe(path))
    expected, found = (dict(trainer.model.named_parameters()) for trainer in (whole, resumed))
    for name, parameter in expected.items():
        if parameter.requires_grad:
            assert torch.equal(parameter, found[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_commands(recipe_file, mix: list, tmp_path: Path, kind: str, capsys) -> None:
    path, run = str(recipe_file(**KINDS[kind])), str(tmp_path / "run")
    assert main(["train", path]) == 0
    ask = ["generate", "--model", run, "--prompt", "What colour is it?", "--max-new-tokens", "4", "--num-beams", "2"]
    image = str(Path(mix[0]["image_folder"]) / "1.png")
    capsys.readouterr()
    assert main([*ask, "--image", image, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["cluster_id"] is None
    assert main(["eval", "--model", run, "--recipe", path, "--output", str(tmp_path / "eval"), "--limit", "2"]) == 0
    assert (tmp_path / "eval" / "results.json").is_file()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "collapse" not in card
    capsys.readouterr()
    for refused, words in (
        ([*ask, "--cluster-id", "0"], f"router '{kind}', which looks at no cluster"),
        ([*ask, "--explain"], "has no cluster model"),
        ([*ask, "--dataset", "sums"], "so it would change nothing"),
        (["collapse", "--model", run, "--cluster", "0", "--output", str(tmp_path / "c")], f"router='{kind}'"),
        (["collapse", "--model", run, "--output", str(tmp_path / "c")], f"router='{kind}'"),
    ):
        assert main(refused) == 2
        assert words in capsys.readouterr().err
    predictor = Predictor.from_pretrained(run)
    with pytest.raises(RoutingError, match="looks at no cluster"):
        predictor.predict(None, "What?", cluster_id=1)
