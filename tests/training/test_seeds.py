"""Where a run's random numbers come from: one start for all ranks, and noise of its own for each."""

import pytest
import torch

from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments
from llava_mocle.training import run
from llava_mocle.training.run import train


class Ready(Exception):
    """The run is about to take its first step."""


def first_draw(recipe_file, monkeypatch: pytest.MonkeyPatch, rank: int, used_up: int = 0):
    """What a rank of two has just before its first step: its adapter, and the next random numbers.

    Args:
        used_up: random numbers that loading the base takes, as joining it from parts does.
    """
    seen = {}
    make, load = run.MocleTrainer, run.load_start

    def load_start(*args):
        loaded = load(*args)
        torch.rand(used_up)
        return loaded

    class Stopped:
        routing = None

        def is_world_process_zero(self) -> bool:
            raise Ready

    def make_trainer(recipe, args, loaded, data, model, *rest):
        seen["weights"] = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
        return Stopped()

    with monkeypatch.context() as patch:
        patch.setattr(run, "load_start", load_start)
        patch.setattr(run, "MocleTrainer", make_trainer)
        patch.setattr(MocleTrainingArguments, "world_size", property(lambda args: 2))
        patch.setattr(MocleTrainingArguments, "process_index", property(lambda args: rank))
        with pytest.raises(Ready):
            train(load_recipe(recipe_file()))
    assert (run.MocleTrainer, run.load_start) == (make, load)
    return seen["weights"], torch.randn(8)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_ranks_start_alike_and_draw_their_own_noise(recipe_file, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, first_noise), (second, second_noise) = (first_draw(recipe_file, monkeypatch, rank) for rank in (0, 1))
    assert same(first, second)
    assert not torch.equal(first_noise, second_noise)
    assert torch.equal(first_draw(recipe_file, monkeypatch, 1)[1], second_noise)


def test_the_adapters_start_does_not_depend_on_how_the_base_was_loaded(recipe_file, monkeypatch) -> None:
    assert same(first_draw(recipe_file, monkeypatch, 0)[0], first_draw(recipe_file, monkeypatch, 0, used_up=1000)[0])
