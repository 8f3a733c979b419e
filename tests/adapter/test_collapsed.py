"""A `generate` call of one cluster: the same answers as token by token, and never those of weights that are gone."""

import copy

import pytest
import torch
from torch import Tensor

from llava_mocle.adapter.collapsed import Pair
from llava_mocle.adapter.layer import MocleLinear
from llava_mocle.errors import RoutingError

from .helpers import expected_site, relative_error, tiny_peft, token_ids

PROMPT = token_ids(3)
MASK = torch.ones_like(PROMPT)


def frozen(**changes):
    return tiny_peft(**changes).requires_grad_(False)


def scores(model, cluster: int, **options) -> Tensor:
    """The logits (T, 3, V) of four generated tokens."""
    settings = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    ids = torch.full((3,), cluster)
    with torch.no_grad():
        output = model.generate(input_ids=PROMPT, attention_mask=MASK, cluster_ids=ids, **settings | options)
    return torch.stack(output.logits)


def token_by_token(model, cluster: int, **options) -> Tensor:
    """The same with a hook on some experts, which then are called for every token."""
    handle = layers(model)[0].mocle_experts["default"].register_forward_hook(lambda *_: None)
    try:
        return scores(model, cluster, **options)
    finally:
        handle.remove()


def layers(model) -> list[MocleLinear]:
    return [module for module in model.modules() if isinstance(module, MocleLinear)]


def kept(model) -> list[int]:
    return [cluster for adapter in model.base_model._collapsed._kept.values() for cluster in adapter.clusters]


CHANGES = {
    "one of four": {},
    "two of four": {"top_k": 2, "universal_expert": False},
    "without a universal expert": {"universal_expert": False},
    "released": {"gate_mode": "released"},
    "by dataset": {"router": "dataset"},
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_pair_is_the_paper_formula(changes, dtype):
    model = frozen(**changes).to(dtype)
    tuner, config = model.base_model, model.peft_config["default"]
    routings = tuner._route({"cluster_ids": [1, 1], "dataset_ids": [1, 1]}, 2)
    collapsed = tuner._collapse({"cluster_ids": [1, 1], "dataset_ids": [1, 1]}, routings)["default"]
    logits = routings["default"].gates.clean_logits.double()
    x = torch.randn(2, 3, 48, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for index, name in enumerate(tuner.sites):
        layer = tuner.model.get_submodule(name)
        own = x[..., : layer.in_features]
        experts = layer.mocle_experts["default"]
        linear = torch.nn.Linear(layer.in_features, layer.out_features).double()
        linear.weight.data.zero_()
        linear.bias.data.zero_()
        stacks = experts.experts_A.double(), experts.experts_B.double()
        expected = expected_site(own.double(), linear, stacks, logits[index], config)
        # One rounding of B and of each product: 2 ** -9 for bf16, and a few of them.
        tolerance = {torch.float64: 1e-7, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
        assert relative_error(collapsed.site(index)(own).double(), expected) < tolerance


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}], ids=["greedy", "beams", "no cache"])
def test_generate_equals_token_by_token(options, monkeypatch):
    model = frozen()
    called = []
    for layer in layers(model):
        monkeypatch.setattr(type(layer.mocle_experts["default"]), "forward", lambda *_: called.append(1))
    fast = scores(model, 2, **options)
    monkeypatch.undo()
    assert not called
    # float32 sums in another order.
    assert relative_error(fast, token_by_token(model, 2, **options)) < 1e-5


def test_mixed_batches_and_single_forwards_call_the_experts():
    model, seen = frozen(), []
    site = layers(model)[0]
    state = site.routing_state
    original = state.assignment

    def watched(*args):
        seen.append(original(*args))
        return seen[-1]

    state.assignment = watched
    model.generate(input_ids=PROMPT, attention_mask=MASK, cluster_ids=[0, 2, 0], max_new_tokens=2)
    model(input_ids=PROMPT, cluster_ids=[1, 1, 1])
    assert seen
    assert not any(isinstance(assignment, Pair) for assignment in seen)


def test_a_batch_of_another_size_is_refused_still(monkeypatch):
    monkeypatch.setattr("llava_mocle.adapter.generation.expansion", lambda *_: 1)
    with pytest.raises(RoutingError, match="batch of 9 rows, but 3 routing ids"):
        scores(frozen(), 1, num_beams=3)


def _write_in_place(model):
    with torch.no_grad():
        layers(model)[-1].mocle_experts["default"].experts_B.mul_(2)


def _replace_the_memory(model):
    experts = layers(model)[-1].mocle_experts["default"]
    experts.experts_B.data = 2 * experts.experts_B.data


def _load(model):
    model.load_state_dict(
        {key: 1.5 * value for key, value in model.state_dict().items() if "mocle_" in key}, strict=False
    )


def _assign(model):
    weights = {key: 1.5 * value for key, value in model.state_dict().items() if "experts" in key}
    model.load_state_dict(weights, strict=False, assign=True)


def _train(model):
    model.train().requires_grad_(True)
    optimizer = torch.optim.SGD([p for name, p in model.named_parameters() if "experts" in name], lr=1.0)
    model(input_ids=PROMPT, labels=PROMPT, cluster_ids=[1, 1, 1]).loss.backward()
    optimizer.step()
    model.eval().requires_grad_(False)


def _new_embedding(model):
    model.base_model.set_cluster_embedding(torch.randn(5, 8, generator=torch.Generator().manual_seed(8)))


def _round_trip(model):
    model.bfloat16().float()


def _inner_round_trip(model):
    model.get_base_model().bfloat16().float()


WRITES = [
    _write_in_place,
    _replace_the_memory,
    _load,
    _assign,
    _train,
    _new_embedding,
    _round_trip,
    _inner_round_trip,
]


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__.strip("_"))
def test_changed_weights_answer_as_they_are(write):
    model = frozen()
    before = scores(model, 1)
    assert torch.equal(scores(model, 1), before)
    assert kept(model) == [1]
    write(model)
    model.requires_grad_(False)
    after = scores(model, 1)
    assert relative_error(after, token_by_token(model, 1)) < 1e-5
    assert not torch.equal(after, before)


def test_a_trainable_adapter_is_collapsed_anew_in_every_call():
    """As an optimizer may write through `.data`, which leaves no trace."""
    model = tiny_peft()
    scores(model, 1)
    assert kept(model) == []
    layers(model)[-1].mocle_experts["default"].experts_B.data.mul_(2)
    assert relative_error(scores(model, 1), token_by_token(model, 1)) < 1e-5


def test_the_least_recent_cluster_is_forgotten():
    """Four experts and the universal one; a cluster takes two of five, so two clusters fit."""
    model = frozen()
    for cluster in (0, 1, 0, 2):
        scores(model, cluster)
    assert kept(model) == [0, 2]
    _write_in_place(model)
    scores(model, 3)
    assert kept(model) == [3]
    model.train()
    assert kept(model) == []


def test_what_one_cluster_takes_may_be_more_than_the_adapter():
    model = frozen(num_experts=1)
    for cluster in (0, 1):
        scores(model, cluster)
    assert kept(model) == [1]


def test_other_adapters_and_merged_weights():
    model = frozen()
    first = scores(model, 1)
    model.add_adapter("other", model.peft_config["default"])
    model.set_adapter("other")
    model.requires_grad_(False)
    other = scores(model, 1)
    assert not torch.allclose(first, other, atol=1e-3)
    model.set_adapter("default")
    assert torch.equal(scores(model, 1), first)
    model.merge_adapter(cluster=1)
    assert relative_error(scores(model, 1), first) < 1e-5
    model.unmerge_adapter()
    with model.disable_adapter():
        assert not torch.allclose(scores(model, 1), first, atol=1e-3)
    assert relative_error(scores(model, 1), first) < 1e-5


def test_a_copy_starts_without_pairs():
    model = frozen()
    expected = scores(model, 1)
    other = copy.deepcopy(model)
    assert kept(other) == []
    assert torch.equal(scores(other, 1), expected)


def test_in_training_mode_the_noise_counts():
    model = tiny_peft(gate_noise_std=5.0).train()
    model.requires_grad_(False)
    ids = {"cluster_ids": torch.tensor([1, 1, 1]), "dataset_ids": None}
    assert model.base_model._collapse(ids, model.base_model._route(ids, 3)) == {}


def test_weights_that_are_not_there_are_left_to_the_experts():
    """As under ZeRO-3, where a parameter is empty until its module is called."""
    model = frozen()
    experts = layers(model)[0].mocle_experts["default"]
    ids = {"cluster_ids": torch.tensor([1, 1, 1]), "dataset_ids": None}
    routings = model.base_model._route(ids, 3)
    assert model.base_model._collapse(ids, routings)
    experts.experts_A.data = torch.empty(0)
    assert model.base_model._collapse(ids, routings) == {}
