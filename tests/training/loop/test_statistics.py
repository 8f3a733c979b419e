"""Routing statistics, losses a group and optimizer groups, each against an answer worked by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.loop.routing_log import RoutingLog, warn_of_idle_experts
from llava_mocle.training.loop.validation import LossByGroup
from llava_mocle.training.run import train
from llava_mocle.training.setup.parameter_groups import parameter_groups


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


def test_losses_by_dataset_and_cluster() -> None:
    groups = LossByGroup(["a", "b"])
    losses, counts = torch.tensor([6.0, 8.0, 3.0]), torch.tensor([2.0, 4.0, 1.0])
    groups.add(losses, counts, torch.tensor([0, 1, 1]), torch.tensor([5, 0, 5]))
    groups.add(torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([0]), torch.tensor([-1]))
    assert groups.metrics() == pytest.approx(
        {
            "eval_loss": 18 / 8,
            "eval_loss_a": 7 / 3,
            "eval_loss_b": 11 / 5,
            "eval_loss_cluster_0": 2.0,
            "eval_loss_cluster_5": 3.0,
        }
    )


def test_vectors_do_not_decay() -> None:
    model = nn.ModuleDict(
        {
            "multi_modal_projector": nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)),
            "mocle_experts": nn.Linear(3, 2),
            "mocle_router": nn.Linear(2, 2),
        }
    )
    args = SimpleNamespace(learning_rate=0.1, mm_projector_lr=None, gate_learning_rate=None, weight_decay=0.3)
    names = {id(value): name for name, value in model.named_parameters()}
    decays = {
        names[id(value)]: group["weight_decay"] for group in parameter_groups(model, args) for value in group["params"]
    }
    assert decays == {
        "multi_modal_projector.0.weight": 0.3,
        "multi_modal_projector.0.bias": 0.0,
        "multi_modal_projector.1.weight": 0.0,
        "multi_modal_projector.1.bias": 0.0,
        "mocle_experts.weight": 0.3,
        "mocle_experts.bias": 0.0,
        "mocle_router.weight": 0.3,
        "mocle_router.bias": 0.0,
    }


def test_decay_reaches_the_optimizer(recipe_file) -> None:
    trainer = train(load_recipe(recipe_file(max_steps=1, weight_decay=0.3)))
    decays = {group["name"]: group["weight_decay"] for group in trainer.optimizer.param_groups}
    assert decays == {"experts": 0.3, "router": 0.3, "projector": 0.3, "projector_bias": 0.0}
