"""Routing statistics against an answer worked by hand."""

from types import SimpleNamespace

import pytest
import torch

from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.loop.routing_log import RoutingLog, warn_of_idle_experts
from llava_mocle.training.run import train


class Routed:
    """A tuner of two sites and two experts whose last forward routed four samples."""

    def __init__(self) -> None:
        self.sites = ["layers.0.mlp.up_proj", "layers.0.mlp.down_proj"]
        self.active_adapters = ["default"]
        self.peft_config = {"default": SimpleNamespace(num_experts=2)}

    def last_routing(self) -> SimpleNamespace:
        return SimpleNamespace(
            expert=torch.tensor([[0, 0, 0, 1], [1, 1, 0, 1]]),
            gate=torch.tensor([[0.5, 0.5, 0.5, 0.9], [0.8, 0.8, 0.8, 0.8]]),
            universal_weight=None,
            overturned=torch.tensor([[True, False, False, False], [False, False, False, False]]),
        )


def test_statistics_of_several_processes_are_averaged() -> None:
    log = RoutingLog(Routed())
    log.add()
    alone = log.pop()
    assert alone["routing/up_proj/gate"] == pytest.approx(0.6)
    assert alone["routing/down_proj/expert_1"] == pytest.approx(0.75)
    assert alone["routing/overturned"] == pytest.approx(1 / 8)

    def reduce(values: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
        """As `Accelerator.reduce` with a peer whose statistics are all 0.2."""
        total = values + 0.2
        return {"sum": total, "mean": total / 2}[reduction]

    log.add()
    together = log.pop(reduce)
    assert together == pytest.approx({name: (value + 0.2) / 2 for name, value in alone.items()})


def test_the_trainer_asks_all_processes(recipe_file, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = train(load_recipe(recipe_file(max_steps=1)))
    asked = []
    monkeypatch.setattr(trainer.accelerator, "reduce", lambda values, reduction: asked.append(reduction) or values)
    trainer.routing.add()
    trainer.log({"loss": 1.0})
    assert asked == ["mean"]


def test_an_idle_expert_is_named() -> None:
    gates = torch.zeros(3, 2, 3)  # (clusters, sites, experts)
    for cluster, chosen in enumerate([(0, 2), (1, 2), (0, 1)]):
        for site, expert in enumerate(chosen):
            gates[cluster, site, expert] = 1.0
    messages = warn_of_idle_experts(gates, ["up", "down"])
    assert messages == [
        "expert 2: no cluster chooses it at 1 of 2 sites (first: up)",
        "expert 0: no cluster chooses it at 1 of 2 sites (first: down)",
    ]
    assert warn_of_idle_experts(gates[:2], ["up", "down"]) == []  # two clusters cannot choose three experts
