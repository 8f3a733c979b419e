"""What a forward pass does with its ids, where a routing starts, and how long it lives."""

import copy
import io
import pickle
from functools import partial

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import GenerationConfig

from llava_mocle.errors import ConfigError, RoutingError

from .fake_device import DeviceTensor, move
from .helpers import TwoSites, config, plain_lora, tiny_llama, tiny_peft, token_ids

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
    inner = model.get_base_model().model
    hidden = inner.embed_tokens(BATCH)
    for _ in range(2):
        model(input_ids=BATCH, cluster_ids=IDS)
        with pytest.raises(RoutingError, match="outside the forward"):
            inner.layers[0].mlp(hidden)
        with pytest.raises(RoutingError, match="cluster_ids is missing"):
            inner(input_ids=BATCH)
        with pytest.raises(RoutingError, match="cluster_ids is missing"):
            model(input_ids=BATCH)


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


def test_a_copied_or_pickled_state_has_no_routing():
    model = tiny_peft().train()
    model(input_ids=BATCH, cluster_ids=IDS)
    state = model.base_model._routing.state
    assert state.routings
    assert copy.deepcopy(state).routings == {}
    stream = io.BytesIO()
    pickle.dump(state, stream)
    assert pickle.loads(stream.getvalue()).routings == {}


# ------ the number of times that a forward waits for its device


def on_device(second=False, **changes):
    model = get_peft_model(TwoSites(), config(task_type=None, target_modules=["first", "second"], **changes))
    if second:
        model.add_adapter("second", config(task_type=None, target_modules=["second"]))
        model.base_model.set_adapter(["default", "second"])
    move(model)
    return model, DeviceTensor(torch.randn(3, 7))


@pytest.fixture
def reads():
    DeviceTensor.reads.clear()
    return DeviceTensor.reads


@pytest.mark.parametrize("changes", [{}, {"universal_expert": False, "top_k": 2}, {"gate_mode": "released"}])
@torch.no_grad()
def test_a_forward_reads_its_device_once(reads, changes):
    model, x = on_device(**changes)
    output = model(x, cluster_ids=DeviceTensor(IDS))
    assert isinstance(output, DeviceTensor)
    assert reads == ["aten._to_copy.default"]


@torch.no_grad()
def test_a_forward_with_several_adapters_reads_its_device_once(reads):
    model, x = on_device(second=True)
    model(x, cluster_ids=DeviceTensor(IDS))
    assert reads == ["aten._to_copy.default"]
    with pytest.raises(RoutingError, match=r"cluster_ids holds \[7\]"):
        model(x, cluster_ids=DeviceTensor(torch.tensor([0, 7, 1])))


@pytest.mark.parametrize(("bad", "words"), [([0, 1, 5], r"holds \[5\].*\[0, 5\)"), ([-1, 6, 0], r"holds \[-1, 6\]")])
@torch.no_grad()
def test_ids_on_a_device_are_refused_before_any_site_runs(reads, bad, words):
    model, x = on_device()
    called = []
    model.get_base_model().first.register_forward_pre_hook(lambda *_: called.append("first"))
    with pytest.raises(RoutingError, match=words):
        model(x, cluster_ids=DeviceTensor(torch.tensor(bad)))
    assert (called, len(reads)) == ([], 1)
    model(x, cluster_ids=DeviceTensor(IDS))
    assert called == ["first"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_training_forward_waits_for_a_gpu_once():
    model = get_peft_model(TwoSites(), config(task_type=None, target_modules=["first", "second"])).cuda()
    x, ids = torch.randn(3, 7, device="cuda"), IDS.cuda()
    model(x, cluster_ids=ids).sum().backward()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchroniz") as waits:
            model(x, cluster_ids=ids)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1


# ------ a second place where a routing starts


class Inner(nn.Module):
    """As a language model: its `generate` calls its own forward, twice."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([TwoSites(7, 6, 7)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def generate(self, x, num_beams=1):
        x = x.repeat_interleave(num_beams, dim=0)
        return self(self(x))


class Outer(nn.Module):
    """As InstructBLIP: a forward through its own, and a `generate` that passes its own forward by."""

    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        return self.inner(self.inner(2 * x))

    def generate(self, input_ids, **options):
        return self.inner.generate(2 * input_ids, **options)


def routed(model, **changes):
    torch.manual_seed(1)
    return get_peft_model(model, config(**{"task_type": None, "target_modules": ["first", "second"], **changes}))


def outer_model():
    torch.manual_seed(0)
    return routed(Outer(), gate_noise_std=5.0)


X = torch.randn(3, 7, generator=torch.Generator().manual_seed(5))


def starts(model):
    tuner = model.base_model
    names = {module: name for name, module in tuner.model.named_modules()}
    return [names[module] for module in tuner._routing._starts]


@pytest.mark.parametrize(
    ("sites", "modules"),
    [
        (["inner.layers.0.first", "inner.layers.1.second"], ["", "inner"]),
        (["inner.layers.0.first", "inner.layers.0.second"], ["", "inner", "inner.layers.0"]),
        (["inner.layers.0.first"], ["", "inner", "inner.layers.0"]),
        (["inner.layers.0.first", "head"], [""]),
        (["head"], [""]),
        (["other.first", "other_again.first"], [""]),
    ],
)
def test_a_routing_starts_at_every_module_around_all_sites(sites, modules):
    """Not at `layers`, a list that nobody calls; and names count as a whole (`other` is no part of `other_again`)."""
    outer = Outer()
    outer.inner.layers.append(TwoSites(7, 6, 7))
    outer.head = nn.Linear(7, 7)
    outer.other, outer.other_again = TwoSites(), TwoSites()
    assert starts(routed(outer, target_modules=sites)) == modules


def test_a_generate_that_passes_the_root_by_is_routed():
    model = outer_model().eval()
    expected = model(X, cluster_ids=IDS)
    assert torch.equal(model.base_model.generate(input_ids=X, cluster_ids=IDS), expected)
    beams = model.base_model.generate(input_ids=X, cluster_ids=IDS, num_beams=2)
    assert (beams - expected.repeat_interleave(2, dim=0)).abs().max() < 1e-5
    assert model.base_model.last_routing() is None
    with pytest.raises(RoutingError, match="cluster_ids is missing"):
        model.base_model.generate(input_ids=X)
    with pytest.raises(RoutingError, match="2 ids but the batch has 3"):
        model.base_model.generate(input_ids=X, cluster_ids=IDS[:2])


def test_the_configuration_of_the_module_that_generates_says_how_often_samples_are_repeated():
    class Configured(Inner):
        def generate(self, x, **options):
            return super().generate(x, **{"num_beams": self.generation_config.num_beams, **options})

    outer = Outer()
    outer.inner = Configured()
    model = routed(outer).eval()
    outer.generation_config = GenerationConfig(num_beams=3)  # nobody reads it
    outer.inner.generation_config = GenerationConfig(num_beams=2)
    expected = model(X, cluster_ids=IDS)
    for beams, options in ((2, {}), (4, {"num_beams": 4}), (1, {"num_beams": 1})):
        found = model.base_model.generate(input_ids=X, cluster_ids=IDS, **options)
        assert (found - expected.repeat_interleave(beams, dim=0)).abs().max() < 1e-5
    outer.inner.generation_config = GenerationConfig(num_beams=3)
    assert len(model.base_model.generate(input_ids=X, cluster_ids=IDS)) == 9

    def generate(x, **_):
        return outer.inner(x.repeat(2, 1))

    outer.inner.generate = generate
    with pytest.raises(RoutingError, match=r"batch of 6 rows, but 3 routing ids .* repeated 3 times"):
        model.base_model.generate(input_ids=X, cluster_ids=IDS)


def test_an_inner_start_keeps_the_routing_of_the_running_forward():
    """With noise, two routings of one batch differ. Both calls of the inner module must use the outer one's."""
    model = outer_model().train()
    seen = []
    site = model.get_base_model().inner.layers[0].first.mocle_experts["default"]
    site.register_forward_pre_hook(lambda _, args: seen.append(args[1].weight.detach().clone()))
    output = model(X, cluster_ids=IDS)
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0][:, 0], model.base_model.last_routing().weight[0])
    output.sum().backward()
    # Alone, the inner module starts routings of its own.
    inner = model.get_base_model().inner
    inner(X, cluster_ids=IDS)
    assert not torch.equal(seen[2], seen[0])
    with pytest.raises(RoutingError, match="cluster_ids is missing"):
        inner(X)
    with pytest.raises(RoutingError, match="cluster_ids is missing"):
        inner.layers[0](X)
    with pytest.raises(RoutingError, match="outside the forward"):
        inner.layers[0].first(X)


def test_an_inner_call_with_ids_of_its_own_is_routed_by_them():
    class Contrasting(Outer):
        def forward(self, x):
            return self.inner(x, cluster_ids=IDS.flip(0))

    model = routed(Contrasting()).eval()
    inner = model.get_base_model().inner
    assert torch.equal(model(X, cluster_ids=IDS), inner(X, cluster_ids=IDS.flip(0)))


def test_recomputing_an_inner_start_keeps_its_routing():
    class Checkpointed(Outer):
        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    def run(kind):
        torch.manual_seed(0)
        model = routed(kind(), gate_noise_std=5.0).train()
        torch.manual_seed(1)
        model(X, cluster_ids=IDS).sum().backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    class Plain(Outer):
        def forward(self, x):
            return self.inner(x)

    for found, expected in zip(run(Checkpointed), run(Plain), strict=True):
        assert torch.equal(found, expected)


def test_a_forward_inside_backward_still_needs_its_ids():
    """Only an inner start may be part of a recomputation: a whole forward never takes the routing of another."""
    model = outer_model().train()
    output = model(X, cluster_ids=IDS)
    output.register_hook(lambda gradient: model(X))
    with pytest.raises(RoutingError, match="cluster_ids is missing"):
        output.sum().backward()


def test_a_copied_model_routes_by_its_own_starts():
    model = outer_model().eval()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.base_model.mocle_router["default"].gate_weight.zero_()
    assert torch.equal(twin.base_model.generate(input_ids=X, cluster_ids=IDS), twin(X, cluster_ids=IDS))
    assert not torch.equal(twin(X, cluster_ids=IDS), model(X, cluster_ids=IDS))


def test_unloading_removes_every_start():
    model = outer_model()
    plain = model.unload()
    assert torch.equal(plain(X), Outer.forward(plain, X))
    for module in plain.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks


def test_an_inner_call_of_another_batch_size_is_refused():
    class Halved(Outer):
        def forward(self, x):
            return self.inner(x[:2])

    with pytest.raises(RoutingError, match="batch of 2 rows while 3 samples were routed"):
        routed(Halved())(X, cluster_ids=IDS)


def test_each_routed_adapter_has_its_starts_and_takes_them_along():
    outer = Outer()
    outer.inner.layers.append(TwoSites(7, 6, 7))
    outer.other = TwoSites(7, 6, 7)
    model = routed(outer, target_modules=["inner.layers.0.first", "inner.layers.1.first"]).eval()
    expected = model(X, cluster_ids=IDS)
    changes = {"task_type": None, "num_clusters": 3}
    model.add_adapter("second", config(target_modules=["inner.layers.1.first"], **changes))
    model.add_adapter("third", config(target_modules=["other.first"], **changes))
    model.add_adapter("plain", plain_lora(task_type=None, target_modules=["other.second"]))
    model.eval()
    assert starts(model) == ["", "inner", "inner.layers.1", "other"]
    assert torch.equal(model(X, cluster_ids=IDS), expected)
    assert torch.equal(model.base_model.generate(input_ids=X, cluster_ids=IDS), expected)
    model.base_model.set_adapter("second")
    small = torch.tensor([2, 0, 2])
    assert torch.equal(model.base_model.generate(input_ids=X, cluster_ids=small), model(X, cluster_ids=small))
    model.base_model.set_adapter("default")
    for name in ("second", "third", "plain"):
        model.delete_adapter(name)
    assert starts(model) == ["", "inner"]
    outer.other(X)
    assert not outer.inner.layers[1]._forward_pre_hooks
    assert torch.equal(model.base_model.generate(input_ids=X, cluster_ids=IDS), expected)


def test_a_plain_lora_asks_for_no_ids_anywhere():
    lora = plain_lora(task_type=None, target_modules=["first", "second"])
    model = get_peft_model(Outer(), lora).eval()
    assert starts(model) == [""]
    assert torch.equal(model.base_model.generate(input_ids=X), model(X))


def test_a_merged_cluster_generates_inside():
    model = outer_model().eval()
    ids = torch.full((3,), 2)
    expected = model(X, cluster_ids=ids)
    model.base_model.merge_adapter(cluster=2)
    for options in ({}, {"cluster_ids": ids}):
        assert (model.base_model.generate(input_ids=X, **options) - expected).abs().max() < 1e-5
    with pytest.raises(RoutingError, match="cluster 2 of adapter 'default' is merged"):
        model.base_model.generate(input_ids=X, cluster_ids=IDS)
    model.base_model.unmerge_adapter()
    assert (model.base_model.generate(input_ids=X, cluster_ids=ids) - expected).abs().max() < 1e-5


def test_disabled_adapters_route_nothing_inside():
    model = outer_model().eval()
    plain = copy.deepcopy(model).unload()
    with model.disable_adapter():
        assert torch.equal(model.base_model.generate(input_ids=X), plain(X))
        assert torch.equal(model.base_model.model.inner(X, cluster_ids=IDS), plain.inner(X))
