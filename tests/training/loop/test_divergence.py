"""Runs whose numbers are no longer finite: they stop by name, and no checkpoint or result holds what came of it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from llava_mocle.errors import DivergenceError
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.loop.divergence import SKIPPED_STEPS, DivergenceCheck
from llava_mocle.training.loop.trainer import MocleTrainer
from llava_mocle.training.run import train
from tests.training.ranks import ZERO, start

FAR = {"learning_rate": 1e25, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2, "max_steps": 12}


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Turns the loss of micro-batch `at` (from 1) into nan."""
    chosen = SimpleNamespace(at=0, seen=0)
    whole = MocleTrainer.compute_loss

    def compute_loss(trainer: MocleTrainer, model, inputs, *args, **kwargs):
        loss = whole(trainer, model, inputs, *args, **kwargs)
        chosen.seen += 1
        return loss * float("nan") if chosen.seen == chosen.at else loss

    monkeypatch.setattr(MocleTrainer, "compute_loss", compute_loss)
    return chosen


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def check(folder: Path, fp16: bool = False) -> DivergenceCheck:
    """Without a trainer: one process, whose numbers are the total."""
    args = SimpleNamespace(
        output_dir=str(folder), fp16=fp16, learning_rate=0.1, max_grad_norm=1.0, device=torch.device("cpu")
    )
    return DivergenceCheck(args, lambda flags: flags)


def weight(*values: float, trained: bool = True) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values), requires_grad=trained)


def test_a_log_entry_is_looked_at(tmp_path: Path) -> None:
    divergence = check(tmp_path)
    divergence.after_log(1, {"loss": 1.0, "grad_norm": 2.0})
    divergence.after_log(1, {"eval_loss": float("nan")})  # not a training log
    with pytest.raises(DivergenceError, match=rf"step 2: gradient norm inf; .*{tmp_path} holds no checkpoint"):
        divergence.after_log(2, {"loss": 1.0, "grad_norm": float("inf")})
    check(tmp_path, fp16=True).after_log(2, {"loss": float("nan"), "grad_norm": float("inf")})


@pytest.mark.parametrize(
    ("loss", "norm", "weights", "what"),
    [
        (1.0, 1.0, [weight(1.0), weight(float("nan"))], "a trained weight"),
        (float("inf"), 1.0, [weight(1.0)], "the loss"),
        (1.0, torch.tensor(float("nan")), [weight(1.0)], "the gradient norm"),
        (float("nan"), float("nan"), [weight(1.0)], "the loss, the gradient norm"),
    ],
)
def test_each_number_is_looked_at_before_saving(tmp_path: Path, loss: float, norm, weights: list, what: str) -> None:
    divergence = check(tmp_path)
    divergence.after_step(3, torch.tensor(loss), norm, skipped=False)
    with pytest.raises(DivergenceError, match=f"step 3: {what}: not a finite number"):
        divergence.before_saving(3, weights)


def test_sound_numbers_and_frozen_weights_pass(tmp_path: Path) -> None:
    divergence = check(tmp_path)
    divergence.before_saving(0, [weight(1.0)])  # no step has been taken
    divergence.after_step(1, torch.tensor(1.0), None, skipped=False)
    divergence.before_saving(1, [weight(1.0), weight(float("nan"), trained=False)])


def test_the_running_sum_is_looked_at_as_it_is_when_saving(tmp_path: Path) -> None:
    """`Trainer` adds the next losses to the same tensor."""
    divergence, total = check(tmp_path), torch.tensor(1.0)
    divergence.after_step(1, total, 1.0, skipped=False)
    total += float("nan")
    with pytest.raises(DivergenceError, match="the loss: not a finite number"):
        divergence.before_saving(1, [weight(1.0)])


def test_one_process_is_enough(tmp_path: Path) -> None:
    divergence = check(tmp_path)
    divergence.total = lambda flags: flags + torch.tensor([1.0, 0.0, 0.0])  # a peer with one such weight
    with pytest.raises(DivergenceError, match="a trained weight"):
        divergence.before_saving(1, [weight(1.0)])


def test_skipped_steps_are_counted_once_each(tmp_path: Path) -> None:
    divergence, loss = check(tmp_path, fp16=True), torch.tensor(float("inf"))
    for step in range(1, SKIPPED_STEPS):
        for _ in range(2):  # the last step of an epoch is reported twice
            divergence.after_step(step, loss, float("inf"), skipped=True)
    divergence.before_saving(SKIPPED_STEPS, [weight(1.0)])  # fp16's loss and norm are allowed to overflow
    with pytest.raises(DivergenceError, match=f"{SKIPPED_STEPS} steps in a row .* bf16 in place of fp16"):
        divergence.after_step(SKIPPED_STEPS, loss, float("inf"), skipped=True)


def test_a_step_that_is_taken_ends_the_row(tmp_path: Path) -> None:
    divergence, loss = check(tmp_path, fp16=True), torch.tensor(1.0)
    for step in range(1, 3 * SKIPPED_STEPS):
        divergence.after_step(step, loss, 1.0, skipped=step % SKIPPED_STEPS != 0)


def test_a_learning_rate_out_of_range_stops_the_run(recipe_file, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"step \d+: .*(nan|inf).*lower learning_rate \(now 1e\+25\)") as caught:
        train(load_recipe(recipe_file(**FAR)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "adapter_model.safetensors").exists()
    for folder in (tmp_path / "run").glob("checkpoint-*"):
        assert all(torch.isfinite(value).all() for value in load_file(folder / "adapter_model.safetensors").values())


@pytest.mark.parametrize(("logging_steps", "at"), [(1, 5), (100, 6)])
def test_good_checkpoints_stay(
    recipe_file, tmp_path: Path, poisoned: SimpleNamespace, logging_steps: int, at: int
) -> None:
    """At the next log entry, or where there is none at the next save."""
    poisoned.at = 5
    keys = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2, "max_steps": 12}
    with pytest.raises(DivergenceError, match=rf"step {at}: .*run/checkpoint-4 is the last whole checkpoint"):
        train(load_recipe(recipe_file(**keys, logging_steps=logging_steps)))
    assert checkpoints(tmp_path / "run") == ["checkpoint-2", "checkpoint-4"]


def test_the_log_says_nan(recipe_file, poisoned: SimpleNamespace, capsys: pytest.CaptureFixture) -> None:
    poisoned.at = 2
    with pytest.raises(DivergenceError, match=r"step 2: loss nan and gradient norm nan"):
        train(load_recipe(recipe_file()))
    assert "step     2  loss nan" in capsys.readouterr().out


def test_a_result_is_not_written_either(recipe_file, tmp_path: Path, poisoned: SimpleNamespace) -> None:
    poisoned.at = 4
    with pytest.raises(DivergenceError, match=r"step 4: a trained weight.* holds no checkpoint"):
        train(load_recipe(recipe_file(logging_steps=100, max_steps=4)))
    assert not (tmp_path / "run" / "adapter_model.safetensors").exists()


def test_a_weight_alone_is_seen_before_a_save(recipe_file, tmp_path: Path, monkeypatch) -> None:
    """Loss and gradients of the step were fine; its update was not."""
    monkeypatch.setattr(torch.optim.AdamW, "step", _fill_with_inf)
    with pytest.raises(DivergenceError, match="step 1: a trained weight: not a finite number"):
        train(load_recipe(recipe_file(max_steps=1, save_strategy="steps", save_steps=1)))
    assert checkpoints(tmp_path / "run") == []


def _fill_with_inf(optimizer, closure=None) -> None:
    with torch.no_grad():
        optimizer.param_groups[0]["params"][0].fill_(float("inf"))


def test_loss_scaling_may_skip_some_steps_in_a_row(recipe_file, poisoned: SimpleNamespace, monkeypatch) -> None:
    """fp16 needs a GPU: here the flags are as it would set them."""
    trainer = train(load_recipe(recipe_file(max_steps=1)))
    skipped = [False]
    monkeypatch.setattr(type(trainer.accelerator), "optimizer_step_was_skipped", property(lambda self: skipped[0]))
    trainer.args.fp16 = True
    trainer.control.should_save = trainer.control.should_evaluate = False

    def step(norm: float, loss: float) -> torch.Tensor:
        trainer.state.global_step += 1
        trainer.control.should_log = True
        total = torch.tensor(loss)
        for _ in range(2):  # as at an epoch's end
            trainer._maybe_log_save_evaluate(total, torch.tensor(norm), trainer.model, None, 0, None, 0.0, 0.1)
        return total

    before = trainer._total_loss_scalar
    for flag in [True] * (SKIPPED_STEPS - 1) + [False] + [True] * (SKIPPED_STEPS - 1):
        skipped[0] = flag
        total = step(float("inf") if flag else 1.0, float("nan") if flag else 2.0)
        assert total == 0  # the next log entry starts from nothing
    assert trainer._total_loss_scalar == before + 2.0
    trainer.divergence.before_saving(trainer.state.global_step, trainer.model.parameters())
    with pytest.raises(DivergenceError, match=f"{SKIPPED_STEPS} steps in a row .* bf16 in place of fp16"):
        step(float("inf"), float("nan"))


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "logging_steps"), [(None, 1), (2, 1), (3, 100)])
def test_all_ranks_stop_together(recipe_file, tmp_path: Path, zero: int | None, logging_steps: int) -> None:
    words = ["--logging_steps", str(logging_steps), *(["--deepspeed", ZERO[zero]] if zero else [])]
    ranks = start(tmp_path / "logs", recipe_file(**FAR), *words, count=2)
    assert ranks.wait() == [2, 2], ranks.output() + ranks.output(1)
    for rank in (0, 1):
        said = ranks.output(rank)
        assert said.count("error: ") == 1
        assert "lower learning_rate" in said
        assert "Traceback" not in said
    assert not (tmp_path / "run" / "trainer_state.json").exists()
    for state in (tmp_path / "run").glob("checkpoint-*/trainer_state.json"):
        assert "NaN" not in json.dumps(json.loads(state.read_text()))
