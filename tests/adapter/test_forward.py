"""What a forward pass does with its ids, and how long the routing lives."""

import copy
from functools import partial

import pytest
import torch
from peft import get_peft_model
from torch.utils.checkpoint import checkpoint

from llava_mocle.errors import ConfigError, RoutingError

from .helpers import config, plain_lora, tiny_llama, tiny_peft, token_ids

BATCH = token_ids(3)
IDS = torch.tensor([4, 0, 2])


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"cluster_ids": torch.tensor([0, 1])},
        {"cluster_ids": torch.tensor([0, 1, 5])},
        {"cluster_ids": torch.tensor([0.0, 1.0, 2.0])},
        {"cluster_ids": torch.tensor([True, False, True])},
        {"dataset_ids": IDS},
    ],
    ids=["missing", "length", "range", "float", "bool", "the other name"],
)
@pytest.mark.parametrize("call", ["forward", "generate", "forward again"])
def test_bad_ids_never_get_a_default(bad, call):
    model = tiny_peft()
    if call == "forward again":
        model(input_ids=BATCH, cluster_ids=IDS)
    run = partial(model.generate, max_new_tokens=2) if call == "generate" else model
    with pytest.raises(RoutingError, match="cluster_ids"):
        run(input_ids=BATCH, **bad)


def test_every_way_into_the_model_routes_alike():
    model = tiny_peft()
    expected = model(input_ids=BATCH, cluster_ids=IDS).logits
    base = model.get_base_model()
    embedded = base.get_input_embeddings()(BATCH)
    assert torch.equal(base(input_ids=BATCH, cluster_ids=IDS).logits, expected)
    assert torch.equal(model(inputs_embeds=embedded, cluster_ids=IDS).logits, expected)
    assert torch.equal(base(BATCH, cluster_ids=IDS).logits, expected)
    generic = get_peft_model(tiny_llama(), config(task_type=None)).eval()
    generic.load_state_dict(model.state_dict())
    assert torch.equal(generic(input_ids=BATCH, cluster_ids=IDS).logits, expected)
    with pytest.raises(RoutingError):
        base(BATCH)


def test_samples_do_not_influence_each_other():
    model = tiny_peft()
    together = model(input_ids=BATCH, cluster_ids=IDS).logits
    for b in range(3):
        alone = model(input_ids=BATCH[b : b + 1], cluster_ids=IDS[b : b + 1]).logits
        assert (alone[0] - together[b]).abs().max() < 1e-5
    other = model(input_ids=BATCH, cluster_ids=torch.tensor([4, 1, 2])).logits
    assert (other[1] - together[1]).abs().max() > 1e-3
    assert (other[[0, 2]] - together[[0, 2]]).abs().max() < 1e-5


def test_dataset_router_takes_dataset_ids():
    model = tiny_peft(router="dataset", num_clusters=3)
    both = model(input_ids=BATCH, dataset_ids=torch.tensor([0, 1, 2]), cluster_ids=torch.tensor([9, 9, 9])).logits
    only = model(input_ids=BATCH, dataset_ids=torch.tensor([0, 1, 2])).logits
    assert torch.equal(both, only)
    with pytest.raises(RoutingError, match="dataset_ids is missing"):
        model(input_ids=BATCH, cluster_ids=torch.tensor([0, 1, 2]))


def test_part_of_the_model_cannot_reuse_an_earlier_routing():
    model = tiny_peft()
    model(input_ids=BATCH, cluster_ids=IDS)
    with pytest.raises(RoutingError, match="outside the forward"):
        model.get_base_model().model(input_ids=BATCH)
    with pytest.raises(RoutingError):
        model(input_ids=BATCH)
    with pytest.raises(RoutingError, match="outside the forward"):
        model.get_base_model().model(input_ids=BATCH)


def test_flattened_tokens_are_refused():
    class Flattening(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(7, 5)

        def forward(self, x):
            return self.first(x.flatten(0, 1))

    model = get_peft_model(Flattening(), config(task_type=None, target_modules=["first"]))
    with pytest.raises(RoutingError, match="batch of 6 rows while 3 samples"):
        model(torch.randn(3, 2, 7), cluster_ids=IDS)


def gradients(checkpointing, **changes):
    model = tiny_peft(gate_noise_std=0.5, lora_dropout=0.2, **changes).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.zero_grad()
    torch.manual_seed(7)
    losses = []
    for ids in (IDS, torch.tensor([1, 1, 3])):
        loss = model(input_ids=BATCH, labels=BATCH, cluster_ids=ids).loss
        loss.backward()
        losses.append(loss.item())
    return losses, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("changes", [{}, {"universal_expert": False, "top_k": 2}, {"gate_mode": "released"}])
def test_gradient_checkpointing_changes_nothing(changes):
    off_losses, off = gradients(False, **changes)
    on_losses, on = gradients(True, **changes)
    assert off_losses == pytest.approx(on_losses, abs=1e-6)
    assert off.keys() == on.keys()
    for name, gradient in off.items():
        assert (gradient - on[name]).abs().max() <= 1e-6, name


def test_recomputing_a_replaced_forward_is_refused():
    model = tiny_peft(gate_noise_std=0.0).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    first = model(input_ids=BATCH, labels=BATCH, cluster_ids=IDS).loss
    second = model(input_ids=BATCH, labels=BATCH, cluster_ids=torch.tensor([1, 1, 3])).loss
    with pytest.raises(RoutingError, match="call backward after every forward"):
        (first + second).backward()


def test_two_forwards_before_one_backward_work_without_checkpointing():
    model = tiny_peft(gate_noise_std=0.0).train()
    other = torch.tensor([1, 1, 3])
    joint = sum(model(input_ids=BATCH, labels=BATCH, cluster_ids=ids).loss for ids in (IDS, other))
    joint.backward()
    found = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    for ids in (IDS, other):
        model(input_ids=BATCH, labels=BATCH, cluster_ids=ids).loss.backward()
    expected = [p.grad for p in model.parameters() if p.requires_grad]
    assert max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True)) < 1e-6


def test_plain_checkpoint_of_a_site_recomputes_with_the_same_routing():
    class Checkpointed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(7, 7)

        def forward(self, x):
            return checkpoint(self.first, x, use_reentrant=False)

    model = get_peft_model(Checkpointed(), config(task_type=None, target_modules=["first"]))
    model(torch.randn(3, 2, 7), cluster_ids=IDS).sum().backward()
    assert model.base_model.mocle_router["default"].cluster_embedding.grad.abs().sum() > 0


@pytest.mark.parametrize("changes", [{}, {"universal_expert": False, "top_k": 2}])
def test_every_parameter_takes_part_when_all_samples_share_an_expert(changes):
    """What ZeRO needs: a gradient for every parameter on every rank, whatever the rank's routing."""
    model = tiny_peft(**changes).train()
    model(input_ids=BATCH, labels=BATCH, cluster_ids=torch.tensor([1, 1, 1])).loss.backward()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(isinstance(p.grad, torch.Tensor) and p.grad.shape == p.shape for p in trainable.values())
    model.zero_grad()
    model.eval()(input_ids=BATCH, labels=BATCH, cluster_ids=torch.tensor([1, 1, 1])).loss.backward()
    expert = model.last_routing().expert[:, 0].tolist()
    for index, site in enumerate(model.sites):
        gradient = model.get_base_model().get_submodule(site).mocle_experts["default"].experts_A.grad
        norms = gradient.flatten(1).norm(dim=1)
        assert norms[expert[index]] > 0
        unused = set(range(4)) - set(
            model.base_model._routing.state.routings["default"].gates.expert[index, 0].tolist()
        )
        assert unused
        assert all(norms[e] == 0 for e in unused)


def test_router_none_takes_and_ignores_ids():
    model = get_peft_model(tiny_llama(), plain_lora(init_lora_weights=False)).eval()
    expected = model(input_ids=BATCH).logits
    assert torch.equal(model(input_ids=BATCH, cluster_ids=IDS, dataset_ids=IDS).logits, expected)
    model.generate(input_ids=BATCH, cluster_ids=IDS, max_new_tokens=2)
    assert model.last_routing() is None
    assert torch.equal(model.clean_gates(), torch.ones(1, 4, 1))


def test_last_routing_and_clean_gates_agree():
    model = tiny_peft(gate_noise_std=0.0)
    model(input_ids=BATCH, cluster_ids=IDS)
    seen, gates = model.last_routing(), model.clean_gates()
    assert gates.shape == (5, len(model.sites), 4)
    assert (gates.sum(-1) - 1).abs().max() < 1e-6
    for b, cluster in enumerate(IDS.tolist()):
        assert torch.equal(seen.expert[:, b], gates[cluster].argmax(-1))
        assert (seen.gate[:, b] - gates[cluster].max(-1).values).abs().max() < 1e-6
    assert (seen.weight + seen.universal_weight - 1).abs().max() < 1e-6
    assert not seen.weight.requires_grad


def test_a_model_copied_after_a_training_step_works_on_its_own():
    model = tiny_peft(gate_noise_std=0.0).train()
    loss = model(input_ids=BATCH, labels=BATCH, cluster_ids=IDS).loss
    twin = copy.deepcopy(model)
    loss.backward()
    with torch.no_grad():
        for parameter in twin.base_model.mocle_router.parameters():
            parameter.zero_()
    twin(input_ids=BATCH, cluster_ids=IDS)
    assert (twin.last_routing().gate == 0.25).all()
    model(input_ids=BATCH, cluster_ids=IDS)
    assert not (model.last_routing().gate == 0.25).all()


def test_data_parallel_replicas_are_refused():
    model = tiny_peft()
    replica = model.get_base_model()._replicate_for_data_parallel()
    with pytest.raises(ConfigError, match="torchrun"):
        replica(input_ids=BATCH, cluster_ids=IDS)
