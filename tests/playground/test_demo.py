"""The demonstration's single LoRA: what it has in common with MoCLE, and what is said of the two."""

from pathlib import Path

import pytest

from llava_mocle.evaluation.tasks.held_out import evaluate_rows
from llava_mocle.recipe.recipe import load_recipe
from playground import demo
from playground.steps import Step
from tests.evaluation.fakes import FakePredictor


def by_name() -> dict[str, Step]:
    return {step.name: step for together in demo.steps() for step in together}


def test_the_single_lora_differs_from_mocle_in_its_adapter_alone() -> None:
    steps = by_name()
    assert steps["lora"].command[4] == steps["mocle"].command[4]  # the recipe
    mocle, lora = (load_recipe(demo.STAGE_2, steps[name].command[5:]).as_dict() for name in ("mocle", "lora"))
    changed = {key: (mocle[key], lora[key]) for key in mocle if mocle[key] != lora[key]}
    # MoCLE activates two experts of rank 16 with the same alpha / r.
    assert changed == {
        "adapter": ("mocle", "lora"),
        "lora_r": (16, 32),
        "lora_alpha": (32, 64),
        "output_dir": ("playground/runs/mocle", "playground/runs/lora"),
        # A LoRA has no gates.
        "gate_learning_rate": (0.001, None),
        "gate_noise_std": (0.0, None),
    }
    assert steps["lora"].outputs == [demo.RUNS / "lora"]


def test_all_sides_answer_the_same_questions() -> None:
    steps = by_name()
    sides = [list(steps[name].command) for name in ("before", "single_lora", "after")]
    for words in sides:
        for flag in ("--model", "--output"):
            del words[words.index(flag) : words.index(flag) + 2]
    assert sides[0] == sides[1] == sides[2]
    places = [steps[name].outputs[0] for name in demo.SIDES.values()]
    assert places == [demo.OUT / folder for folder in demo.SIDES.values()]


def test_the_scores_are_printed_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "OUT", tmp_path)
    turns = [[{"from": "human", "value": f"q{i}?"}, {"from": "gpt", "value": "no"}] for i in range(20)]
    rows = [{"id": i, "conversations": turn} for i, turn in enumerate(turns)]
    for folder, right in (("single_lora", 5), ("after", 15)):
        known = FakePredictor({f"q{i}?": "no" for i in range(right)})
        evaluate_rows(known, {"natural": (rows, "")}, tmp_path / folder)
    (line,) = [line for line in demo.scores().splitlines() if "natural (n = 20)" in line]
    assert [cell.split()[0] for cell in line.strip("|").split("|")[1:]] == ["25.00", "75.00", "+50.00"]
    assert "MoCLE against single LoRA: better on natural." in demo.scores()
    assert "decides nothing" in demo.scores()
