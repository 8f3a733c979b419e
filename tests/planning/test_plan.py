"""The command, from a recipe to a recommendation."""

import json
import math
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from llava_mocle.cli.main import main
from llava_mocle.errors import ConfigError
from llava_mocle.planning.compute import reached_mfu
from llava_mocle.planning.hardware import GPUS, Cluster, find_gpu
from llava_mocle.planning.memory import DDP, OFFLOAD, ZERO2, ZERO3
from llava_mocle.planning.plan import make_plan
from llava_mocle.planning.settings import Settings, read_settings
from llava_mocle.planning.workload import find_workload
from llava_mocle.recipe.recipe import known_keys, load_recipe

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "scripts" / "recipes" / "llava_v1_5_7b_mocle.yaml")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def plan_of(gpu="a100-80", gpus=8, nodes=1, overrides=(), **options):
    cluster = Cluster.of(find_gpu(gpu), gpus, nodes)
    return make_plan(load_recipe(RECIPE, list(overrides)), cluster, overrides=overrides, **{"samples": 10**6} | options)


def test_steps_and_hours():
    plan = plan_of(tokens=700, mfu=0.5)
    assert (plan.global_batch, plan.steps_per_epoch, plan.steps) == (128, 7813, 7813)
    item = plan.own
    # 16 samples of 700 tokens. An A100 multiplies 312e12 / 2039e9 = 153.02 times for each byte that it reads.
    assert item.mfu == pytest.approx(0.5 * 11_200 / 11_353.02)
    assert item.compute_seconds == pytest.approx(item.flops.total / (8 * 312e12 * 0.49326), rel=1e-5)
    assert plan.hours(item) == pytest.approx(7813 * (item.compute_seconds + item.communication_seconds) / 3600)
    assert plan_of(tokens=700, mfu=0.25).own.compute_seconds == pytest.approx(2 * item.compute_seconds)


@pytest.mark.parametrize(
    ("gpu", "tokens", "expected"),
    [
        ("a100-80", 153.02, 0.2),  # as many tokens as operations a byte: half
        ("a100-80", 1400, 0.3606),  # 0.4 * 1400 / 1553.02
        ("h100", 1400, 0.3303),  # 0.4 * 1400 / (1400 + 989 / 3.35)
        ("h100", 11_200, 0.3897),
        ("l40s", 1400, 0.3079),  # 0.4 * 1400 / (1400 + 362 / 0.864)
        ("rtx4090", 10**9, 0.4),
    ],
)
def test_small_micro_batches_reach_less(gpu, tokens, expected):
    assert reached_mfu(0.4, tokens, find_gpu(gpu)) == pytest.approx(expected, abs=1e-4)


def test_the_recommendation_knows_what_small_micro_batches_cost():
    """Among configurations that do the same operations, the larger micro-batch is the faster one."""
    plan = plan_of("h100", tokens=700)
    same = [item for item in plan.found if item.strategy == DDP and not item.checkpointing]
    assert [item.micro_batch for item in sorted(same, key=lambda item: item.compute_seconds)] == [16, 8, 4, 2, 1]
    one, sixteen = (next(item for item in same if item.micro_batch == size) for size in (1, 16))
    # (700 + 295.2) / 700 over (11200 + 295.2) / 11200.
    assert one.compute_seconds / sixteen.compute_seconds == pytest.approx(1.3852, abs=1e-3)
    assert plan.chosen.mfu == reached_mfu(0.4, 700 * plan.chosen.micro_batch, find_gpu("h100"))


def test_short_samples_are_not_planned_one_by_one():
    """Of 60 tokens each, one at a time, four GPU seconds of five would go into reading weights."""
    plan = plan_of("h100", gpus=8, tokens=60, global_batch=128)
    assert plan.chosen.micro_batch == 16


def test_the_recommendation_fits_and_keeps_the_global_batch():
    for gpu, gpus, batch in (("a100-80", 8, None), ("a100-40", 4, 128), ("l40s", 8, 128), ("a10", 4, 128)):
        plan = plan_of(gpu, gpus, global_batch=batch)
        chosen = plan.chosen
        assert chosen is not None, gpu
        assert chosen.micro_batch * chosen.accumulation * gpus == 128
        assert chosen.total <= GPUS[gpu].memory
        assert chosen.step_seconds <= 1.05 * min(item.step_seconds for item in plan.found if item.fits)


def test_less_memory_never_makes_more_fit():
    fitting = [sum(item.fits for item in plan_of(gpu).found) for gpu in ("a10", "a100-40", "a100-80", "h200")]
    assert fitting == sorted(fitting)
    assert 0 < fitting[0] < fitting[-1]


def test_nothing_fits():
    plan = plan_of("a10", 1, global_batch=1, overrides=["--lora_r", "1024", "--model_max_length", "60000"])
    assert plan.chosen is None
    assert plan.command is None


def test_the_command_line_is_a_recipe_that_resolves():
    plan = plan_of("a10", 4, overrides=("--lora_r", "64"), global_batch=128)
    words = plan.command.split()
    assert words[:4] == ["NPROC=4", "bash", "scripts/finetune_mocle.sh", RECIPE]
    overrides = words[4:]
    settings = read_settings(load_recipe(RECIPE, overrides))
    chosen = plan.chosen
    assert (settings.micro_batch, settings.accumulation) == (chosen.micro_batch, chosen.accumulation)
    assert (settings.checkpointing, settings.strategy) == (chosen.checkpointing, chosen.strategy)
    assert chosen.strategy != DDP
    assert "--lora_r 64" in plan.command


def test_the_command_line_holds_no_secret():
    plan = plan_of("a10", 4, overrides=("--hub_token", "my-secret"), global_batch=128)
    assert "--hub_token '***'" in plan.command


@pytest.mark.parametrize(
    ("words", "nodes", "start"),
    [
        ((), 2, "NODES=2 GPUS_PER_NODE=8 bash scripts/slurm/finetune_mocle.sbatch"),
        (("--stage", "pretrain"), 1, "NPROC=8 bash scripts/pretrain.sh"),
        (("--stage", "pretrain"), 4, "NODES=4 GPUS_PER_NODE=8 bash scripts/slurm/pretrain.sbatch"),
        (("--adapter", "lora"), 1, "NPROC=8 bash scripts/finetune_lora.sh"),
    ],
)
def test_the_command_is_a_script_that_is_there(words, nodes, start):
    command = plan_of(overrides=words, nodes=nodes).command
    assert command.startswith(" ".join([start, RECIPE, *words]) + " --per_device_train_batch_size ")
    assert (ROOT / start.split()[-1]).is_file()


def test_a_recipe_with_deepspeed_is_recognized():
    def strategy(*words):
        return read_settings(load_recipe(RECIPE, words)).strategy

    assert strategy() == DDP
    assert strategy("--deepspeed", "zero_configs/zero2.json") == ZERO2
    assert strategy("--deepspeed", "zero_configs/zero3.json") == ZERO3
    assert strategy("--deepspeed", OFFLOAD.config) == OFFLOAD
    with pytest.raises(ConfigError, match=r"deepspeed: none\.json: no such file"):
        strategy("--deepspeed", "none.json")
    # Where the recommendation does without, it has to say so.
    plan = plan_of("h200", overrides=("--deepspeed", "zero_configs/zero3.json"))
    assert plan.chosen.strategy == DDP
    assert plan.command.endswith("--deepspeed ''")


@pytest.mark.parametrize(
    ("words", "key", "expected"),
    [
        (["--gradient_checkpointing", "true"], "gradient_checkpointing", True),
        (["--gradient_checkpointing", "false"], "gradient_checkpointing", False),
        (["--activation_checkpointing", "false"], "activation_checkpointing", False),
        (["--activation_checkpointing", "true"], "activation_checkpointing", True),
    ],
)
def test_checkpointing_is_decided_as_in_training(words, key, expected):
    recipe = load_recipe(RECIPE, words)
    assert read_settings(recipe).checkpointing == expected
    assert bool(recipe.training_arguments().activation_checkpointing) == expected
    plan = plan_of(overrides=words)
    assert f"--{key} {str(plan.chosen.checkpointing).lower()}" in plan.command


def test_settings_of_the_recipe():
    settings = read_settings(load_recipe(RECIPE))
    expected = Settings(16, 1, True, DDP, True, 2, 8, "sdpa", 1.0, 0, 2048)
    for item in fields(Settings):
        assert getattr(settings, item.name) == getattr(expected, item.name), item.name


def test_rows_are_counted_and_tokens_estimated(tmp_path):
    def rows(name, number, characters, image):
        turns = [{"from": "human", "value": "<image>\n" * image + "x" * characters}, {"from": "gpt", "value": "y" * 40}]
        row = {"conversations": turns} | ({"image": "a.png"} if image else {})
        (tmp_path / name).write_text(json.dumps([{"id": str(i)} | row for i in range(number)]))
        return {"name": name, "data_path": str(tmp_path / name), "repeat": 3 if image else 1}

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"datasets": [rows("a", 10, 120, True), rows("b", 20, 360, False)]}))
    found = find_workload(load_recipe(recipe), image_tokens=576)
    assert found.samples == 10 * 3 + 20
    assert found.images == pytest.approx(30 / 50)
    # (120 + 40) / 4 and (360 + 40) / 4 of text, give or take the line breaks between turns.
    assert found.tokens == pytest.approx((30 * (576 + 40) + 20 * 100) / 50, rel=0.005)
    # 40 characters of answer and its end of turn.
    assert found.supervised == pytest.approx(11)
    assert find_workload(load_recipe(recipe), 576, samples=7).samples == 7
    told = load_recipe(RECIPE)
    assert find_workload(told, 576, samples=7).supervised == 128
    assert find_workload(told, 576, samples=7, tokens=700).supervised == 700 - 576
    assert find_workload(told, 576, samples=7, tokens=500).supervised == 500
    cut = find_workload(load_recipe(recipe, ["--model_max_length", "90"]), 576)
    assert cut.tokens == 90
    assert find_workload(load_recipe(recipe), 576, tokens=7).supervised == 7


def test_weights_decide_what_a_sample_is_on_average(tmp_path):
    """Weights 3 : 1 give three samples with an image for one without, however many rows there are."""

    def rows(name, number, weight, image):
        turns = [{"from": "human", "value": "<image>\n" * image + "x" * 119}, {"from": "gpt", "value": "y" * 40}]
        row = {"conversations": turns} | ({"image": "a.png"} if image else {})
        (tmp_path / name).write_text(json.dumps([{"id": str(i)} | row for i in range(number)]))
        return {"name": name, "data_path": str(tmp_path / name), "weight": weight}

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"datasets": [rows("a", 10, 3, True), rows("b", 40, 1, False)]}))
    found = find_workload(load_recipe(recipe), image_tokens=576)
    assert found.samples == 50
    assert found.images == pytest.approx(0.75)
    assert found.tokens == pytest.approx(0.75 * 576 + 40, rel=0.005)
    with pytest.raises(ConfigError, match="max_steps is -1, but dataset 'a' is drawn by weight"):
        make_plan(load_recipe(recipe), Cluster.of(find_gpu("a100-80"), 8, 1))


def test_missing_rows_ask_for_samples(capsys):
    assert main(["plan", RECIPE, "--gpus", "8", "--gpu", "a100-80"]) == 2
    error = capsys.readouterr().err
    assert "--samples" in error
    assert "llava_v1_5_mix665k.json" in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--gpu", "a100"], "a100-40, a100-80"),
        (["--gpu", "h100", "--gpus", "0"], "--gpus is 0"),
        (["--gpu", "h100", "--mfu", "40"], "--mfu is 40"),
        (["--gpu", "h100", "--global-batch", "100"], "--global-batch is 100"),
        (["--gpu", "h100", "--tokens-per-sample", "0"], "--tokens-per-sample is 0"),
        (["--gpu", "h100", "--lora_rank", "8"], "lora_r"),
    ],
)
def test_mistakes(words, expected, capsys):
    assert main(["plan", RECIPE, "--gpus", "8", "--samples", "1000", *words]) == 2
    assert expected in capsys.readouterr().err


def test_printed_and_written(tmp_path, capsys):
    path = tmp_path / "out" / "plan.json"
    words = ["--gpus", "8", "--gpu", "a100-80", "--samples", "1000000", "--lora_r", "64", "--json", str(path)]
    assert main(["plan", RECIPE, *words]) == 0
    printed = capsys.readouterr().out
    for text in (
        "309,329,920",
        "1,000,000 samples",
        "MFU 0.4 of large micro-batches",
        "N / (N + 153) of that",
        "ZeRO-3",
        "recommended",
        "finetune_mocle.sh",
        "--lora_r 64",
    ):
        assert text in printed
    values = json.loads(path.read_text())
    assert values["shape"]["counts"]["experts"] == 309_329_920
    assert values["recommended"]["fits"]
    assert values["recommended"]["hours"] == pytest.approx(
        values["steps"] * values["recommended"]["step_seconds"] / 3600
    )
    assert values["steps"] == math.ceil(1_000_000 / 128)


def test_flags_of_the_command_are_no_recipe_keys():
    own = {"gpus", "gpu", "nodes", "mfu", "samples", "tokens_per_sample", "longest", "global_batch", "network_gbit"}
    assert not (own | {"json"}) & set(known_keys())


@pytest.mark.parametrize("key", ["fused_adapter", "supervised_head"])
def test_the_plain_paths_take_more(key):
    """By the formulas of docs/plan.md, for the recipe's 16 samples of 2048 tokens, without DeepSpeed."""
    default, plain = plan_of(tokens=700), plan_of(tokens=700, overrides=(f"--{key}", "false"))
    tokens, hidden, wide, vocab, rank = 16 * 2048, 4096, 11008, 32064, 128
    less, more = (
        next(item for item in plan.as_written if item.strategy == DDP and not item.checkpointing)
        for plan in (default, plain)
    )
    if key == "fused_adapter":
        assert less.flops == more.flops
        assert less.activations.loss == more.activations.loss
        # A third factor, both experts' inputs and the products twice; against the MLP's input and the products once.
        saved = 2 * tokens * (wide + 2 * (hidden + wide) + 2 * 2 * 2 * rank - hidden - 2 * 2 * rank)
        casts = 2 * 2 * 5 * rank * (hidden + wide)
        assert more.activations.kept - less.activations.kept == 32 * (saved + casts)
    else:
        assert more.activations.loss == 12 * tokens * vocab
        # Gradients of hidden states: in 16 bit before and after they are scaled, in float32, and of all tokens.
        assert less.activations.loss == tokens * hidden * (2 * 2 + 4 + 2)
        # 124 tokens of text in 700, forward and backward.
        assert less.flops.head / more.flops.head == pytest.approx(124 / 700)
        assert less.activations.kept == more.activations.kept


def test_an_mlp_runs_linear_by_linear_where_it_must():
    """With dropout and with quantized weights it keeps the activation and the product as well."""
    plan = plan_of(tokens=700)
    kept = {item.strategy.key: item.activations.kept for item in plan.as_written if not item.checkpointing}
    tokens, wide, hidden = 16 * 2048, 11008, 4096
    assert kept["zero3"] == kept["zero2"] == kept["ddp"]
    dropped = plan_of(tokens=700, overrides=("--lora_dropout", "0.1")).as_written[0].activations.kept
    # Both sites have a dropped copy in place of their inputs, and a mask of bytes.
    assert dropped - kept["ddp"] == 32 * tokens * (2 * (2 * wide) + hidden + wide)
