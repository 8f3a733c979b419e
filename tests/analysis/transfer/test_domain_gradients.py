"""Gradients of datasets on a toy whose gradients are known, in float64."""

import numpy as np
import pytest
import torch
from peft import get_peft_model
from torch import nn

from llava_mocle.adapter import MocleConfig
from llava_mocle.analysis.transfer.domain_gradients import Sketch, measure_gradients, shared_parameters
from llava_mocle.analysis.transfer.figure import cosines_by_part, plot_transfer
from llava_mocle.analysis.transfer.gradient_cosines import gradient_cosines
from llava_mocle.errors import ConfigError


class Toy(nn.Module):
    """y = W x, whose loss <W x, t> has the gradient t x^T."""

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.Linear(3, 2, bias=False, dtype=torch.float64)

    def loss(self, batch):
        x, t = batch
        return (self.projector(x) * t).sum()


def outer(batch) -> np.ndarray:
    x, t = batch
    return np.outer(t.numpy(), x.numpy()).ravel()


def draw(seed: int, number: int, target: list[float]) -> list:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(3, generator=generator, dtype=torch.float64), torch.tensor(target, dtype=torch.float64))
        for _ in range(number)
    ]


def test_products_are_those_of_the_known_gradients() -> None:
    """Float64 throughout: 1e-12."""
    batches = [(0, batch) for batch in draw(0, 4, [1.0, 0.5])] + [(1, batch) for batch in draw(1, 5, [-1.0, 2.0])]
    found = measure_gradients(Toy(), batches, ["a", "b"], Toy.loss)
    gradients = np.stack([outer(batch) for _, batch in batches])
    assert found.products["projector"] == pytest.approx(gradients @ gradients.T, abs=1e-12)
    assert found.dataset_of.tolist() == [0] * 4 + [1] * 5
    assert found.sizes == {"projector": 6}
    assert (found.silent, found.sketched) == ((), False)


def test_two_datasets_that_undo_each_other(tmp_path) -> None:
    """The same inputs with opposite targets: each batch's gradient is the other's with its sign turned."""
    batches = [(0, batch) for batch in draw(0, 6, [1.0, 1.0])] + [(1, batch) for batch in draw(0, 6, [-1.0, -1.0])]
    found = measure_gradients(Toy(), batches, ["up", "down"], Toy.loss, batch_size=1)
    path, sentences = plot_transfer(found, tmp_path / "transfer.png", "the start of a toy")
    assert "up and down" in sentences[0]
    assert "they pull against each other here" in sentences[0]
    text = path.with_suffix(".txt").read_text()
    assert "at the start of a toy. Batches of 1 rows: up 6, down 6. Values: projector 6." in text
    assert path.with_suffix(".svg").is_file()
    lines = path.with_suffix(".csv").read_text().splitlines()
    assert lines[0].startswith("part,dataset,other,batches,cosine,low,high,of_what_noise_allows")
    assert [line.split(",")[:3] for line in lines[1:]] == [
        ["all that is shared", "up", "up"],
        ["all that is shared", "up", "down"],
        ["all that is shared", "down", "down"],
    ]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 6, dtype=torch.float64)
        self.projector = nn.Linear(3, 4, dtype=torch.float64)

    def forward(self, x, **_):
        return self.up(self.projector(x))


def adapted(**options):
    torch.manual_seed(0)
    config = MocleConfig(target_modules=["up"], modules_to_save=["projector"], r=2, **options)
    return get_peft_model(Net(), config)


@pytest.mark.parametrize(
    ("options", "slot"),
    [
        ({"num_clusters": 3, "cluster_dim": 5, "num_experts": 3}, 3),
        ({"router": "none", "num_experts": 1, "universal_expert": False}, 0),
        ({"num_clusters": 3, "cluster_dim": 5, "num_experts": 3, "universal_expert": False}, None),
    ],
    ids=["mocle", "lora", "cluster"],
)
def test_what_is_shared(options, slot) -> None:
    shared = {(one.part, one.slot): one.size for one in shared_parameters(adapted(**options))}
    expected = {("projector", None): 4}  # the bias, as the last of the two
    if slot is not None:
        expected |= {("LoRA A", slot): 2 * 4, ("LoRA B", slot): 6 * 2}
    assert shared == expected


def test_the_gradient_is_that_of_the_universal_expert() -> None:
    """Against autograd on a copy of that slot alone: its B and A, times the scaling and the weight 1 - G_max."""
    model = adapted(num_clusters=2, cluster_dim=5, num_experts=2, gate_noise_std=0.0, init_lora_weights=False)
    x = torch.rand(4, 3, dtype=torch.float64)
    ids = torch.tensor([0, 1, 1, 0])

    def loss_of(model, batch):
        return model(batch, cluster_ids=ids).square().sum()

    found = measure_gradients(model, [(0, x), (1, 2 * x)], ["a", "b"], loss_of)
    experts = model.base_model.model.up.mocle_experts["default"]
    loss_of(model, x).backward()
    first = torch.cat([experts.experts_A.grad[2].flatten(), experts.experts_B.grad[2].flatten()])
    model.zero_grad()
    loss_of(model, 2 * x).backward()
    second = torch.cat([experts.experts_A.grad[2].flatten(), experts.experts_B.grad[2].flatten()])
    lora = found.products["LoRA A"] + found.products["LoRA B"]
    assert lora[0, 1] == pytest.approx(float(first @ second), rel=1e-10)
    assert lora[0, 0] == pytest.approx(float(first @ first), rel=1e-10)


def test_a_fresh_lora_has_a_silent_half() -> None:
    model = adapted(router="none", num_experts=1, universal_expert=False)

    def loss_of(model, batch):
        return model(batch).square().sum()

    batches = [(place % 2, torch.rand(4, 3, dtype=torch.float64)) for place in range(8)]
    found = measure_gradients(model, batches, ["a", "b"], loss_of)
    assert found.silent == ("LoRA A",)
    assert set(found.products) == {"projector", "LoRA B"}
    parts = cosines_by_part(found)
    assert list(parts) == ["all that is shared", "LoRA", "projector"]
    total = found.products["projector"] + found.products["LoRA B"]
    expected = gradient_cosines(total, found.dataset_of, ["a", "b"]).value
    assert parts["all that is shared"].value == pytest.approx(expected)


def test_nothing_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing that all of its datasets share"):
        measure_gradients(Toy().requires_grad_(False), [], ["a"], Toy.loss)
    still = [(0, (torch.zeros(3, dtype=torch.float64), torch.ones(2, dtype=torch.float64)))] * 2
    with pytest.raises(ConfigError, match="is zero, so there is nothing to compare"):
        measure_gradients(Toy(), still, ["a"], Toy.loss)


def test_a_sketch_keeps_inner_products() -> None:
    """4,000 places: off by about 1 / sqrt(4000) = 0.016 of the lengths; five times that is never seen."""
    generator = torch.Generator().manual_seed(0)
    first, other = (torch.randn(50_000, generator=generator) for _ in range(2))
    second = 0.6 * first + 0.8 * other
    sketches = [Sketch(4000, 0).of(iter(vector.split(17_000))) for vector in (first, second)]
    lengths = float(first.norm() * second.norm())
    assert float(sketches[0] @ sketches[1]) / lengths == pytest.approx(float(first @ second) / lengths, abs=0.08)
    assert torch.equal(sketches[0], Sketch(4000, 0).of(iter(first.split(17_000))))
    batches = [(place % 2, batch) for place, batch in enumerate(draw(0, 8, [1.0, 0.0]))]
    assert measure_gradients(Toy(), batches, ["a", "b"], Toy.loss, most=4).sketched
