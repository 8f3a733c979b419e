"""Routing statistics in the logs, against answers worked by hand."""

from types import SimpleNamespace

import pytest
import torch

from llava_mocle.adapter import RoutingStatistics
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.loop.routing_log import RoutingLog
from llava_mocle.training.run import train
from tests.adapter.fake_device import DeviceTensor
from tests.adapter.helpers import tiny_peft, token_ids


class Routed:
    """A tuner of two sites and two experts whose last forward routed four samples."""

    def __init__(self) -> None:
        self.sites = ["layers.0.mlp.up_proj", "layers.0.mlp.down_proj"]
        self.active_adapters = ["default"]
        self.peft_config = {"default": SimpleNamespace(num_experts=2)}

    def last_routing(self) -> RoutingStatistics:
        gate = torch.tensor([[0.5, 0.5, 0.5, 0.9], [0.8, 0.8, 0.8, 0.8]])
        return RoutingStatistics(
            expert=torch.tensor([[0, 0, 0, 1], [1, 1, 0, 1]]),
            gate=gate,
            weight=gate,
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


def test_the_averages_are_those_of_every_forward() -> None:
    """Five forwards of a model with noise, added up in double precision, one site group after the other."""
    model = tiny_peft(gate_noise_std=1.0).train()
    log = RoutingLog(model.base_model)
    seen = []
    for step in range(5):
        model(input_ids=token_ids(6, seed=step), cluster_ids=torch.arange(6) % 5)
        seen.append(model.last_routing())
        log.add()
    found = log.pop()
    expected = {"routing/overturned": sum(routing.overturned.double().mean().item() for routing in seen) / 5}
    assert 0 < expected["routing/overturned"] < 1
    for group, sites in {"up_proj": [0, 2], "down_proj": [1, 3]}.items():
        expected[f"routing/{group}/gate"] = sum(r.gate[sites].double().mean().item() for r in seen) / 5
        expected[f"routing/{group}/universal"] = sum(r.universal_weight[sites].double().mean().item() for r in seen) / 5
        for expert in range(4):
            share = sum((r.expert[sites] == expert).double().mean().item() for r in seen) / 5
            expected[f"routing/{group}/expert_{expert}"] = share
    # The sums over samples and forwards are kept in float32.
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)
    assert log.pop() == {}


def test_nothing_is_read_from_the_device_until_the_log_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = Routed()
    routing = {
        name: value if value is None else DeviceTensor(value) for name, value in vars(Routed().last_routing()).items()
    }
    monkeypatch.setattr(tuner, "last_routing", lambda: RoutingStatistics(**routing))
    log = RoutingLog(tuner)
    DeviceTensor.reads.clear()
    for _ in range(3):
        log.add()
    assert DeviceTensor.reads == []
    logs = log.pop()
    assert DeviceTensor.reads == ["aten._to_copy.default"]
    assert logs["routing/up_proj/gate"] == pytest.approx(0.6)
    assert logs["routing/up_proj/expert_0"] == pytest.approx(0.75)
