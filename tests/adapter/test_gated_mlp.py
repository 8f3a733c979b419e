"""A gated MLP as one function, against its parts one by one."""

import logging

import pytest
import torch
from peft import get_peft_model

from llava_mocle.adapter import gated_mlp
from llava_mocle.adapter.gated_mlp import GatedMlp, MlpNames

from .helpers import config, plain_lora, relative_error, tiny_llama, tiny_peft, token_ids
from .test_fused import assert_checkpointing_changes_nothing, assert_same_curve, gradients


def fused_peft(**changes):
    model = tiny_peft(**changes).train()
    assert model.base_model.fuse_mlps(MlpNames()) == 2
    return model


def both(model, ids, clusters, **options):
    found = gradients(model, ids, clusters, **options)
    model.base_model.fused = False
    expected = gradients(model, ids, clusters, **options)
    model.base_model.fused = True
    return found, expected


@pytest.fixture
def calls(monkeypatch):
    """How often the one function ran."""
    counted = []
    plain = gated_mlp._GatedMlp.apply
    monkeypatch.setattr(gated_mlp._GatedMlp, "apply", lambda *args: counted.append(1) or plain(*args))
    gated_mlp._say_once.cache_clear()
    return counted


@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"r": 40},
        {"target_modules": ["up_proj"]},
        {"target_modules": ["gate_proj", "down_proj"]},
        {"target_modules": ["gate_proj", "up_proj", "down_proj", "q_proj"]},
        {"universal_expert": False, "top_k": 2},
    ],
    ids=["up and down", "large rank", "up", "gate and down", "all", "top-2"],
)
def test_loss_and_all_gradients_equal_those_of_the_parts(changes, activation, calls):
    model = tiny_llama(hidden_act=activation, mlp_bias=True).double()
    torch.manual_seed(1)
    model = get_peft_model(model, config(**changes)).train()
    assert model.base_model.fuse_mlps(MlpNames()) == 2
    ids, clusters = token_ids(5), torch.tensor([0, 4, 4, 1, 0])
    (found_loss, found), (expected_loss, expected) = both(model, ids, clusters)
    assert len(calls) == 2
    # Float64 through two layers.
    assert found_loss == pytest.approx(expected_loss, rel=1e-12)
    assert found.keys() == expected.keys()
    for name in expected:
        assert relative_error(found[name], expected[name]) < 1e-10, name


def test_a_plain_lora_too(calls):
    model = get_peft_model(tiny_llama(), plain_lora()).train()
    model.base_model.fuse_mlps(MlpNames())
    (_, found), (_, expected) = both(model, token_ids(3), None)
    assert len(calls) == 2
    for name in expected:
        assert relative_error(found[name], expected[name]) < 1e-5, name


def test_autocast(calls):
    model = fused_peft()
    (found_loss, found), (expected_loss, expected) = both(
        model, token_ids(4), torch.tensor([0, 4, 4, 1]), autocast=True
    )
    assert len(calls) == 2
    # Both round to bfloat16 (8 bits) at many places, not at the same.
    assert found_loss == pytest.approx(expected_loss, rel=2e-2)
    for name in expected:
        assert found[name].dtype == torch.float32
        assert relative_error(found[name], expected[name]) < 0.2, name


def test_gradient_checkpointing(calls):
    assert_checkpointing_changes_nothing(fused_peft())
    assert len(calls) == 2 + 2 * 2  # once a layer, and then again in the backward pass


def test_the_activation_is_not_kept_for_the_backward_pass(calls):
    kept = {}
    for fused in (True, False):
        model = fused_peft()
        model.base_model.fused = fused
        widths = kept[fused] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, widths=widths: widths.append(tensor.shape[-1]) or tensor, lambda tensor: tensor
        ):
            model(input_ids=token_ids(3, length=7), cluster_ids=torch.tensor([0, 1, 2]))
    width = model.config.intermediate_size
    # W_gate x and W_up x of two layers, and no other tensor of that width but the weights.
    assert kept[True].count(width) < kept[False].count(width)


def test_twenty_steps_follow_the_same_curve():
    assert_same_curve(fused_peft())


def test_a_second_backward_through_the_first_is_refused():
    model = get_peft_model(tiny_llama(attn_implementation="eager"), config()).train()
    model.base_model.fuse_mlps(MlpNames())
    ids = token_ids(2)
    embedded = model.get_input_embeddings()(ids).requires_grad_()
    loss = model(inputs_embeds=embedded, labels=ids, cluster_ids=torch.tensor([0, 1])).loss
    (of_inputs,) = torch.autograd.grad(loss, embedded, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        of_inputs.sum().backward()


# ------ what stays as it was


def test_names_of_parameters_and_answers_stay():
    plain, model = tiny_peft(), fused_peft().eval()
    assert list(plain.state_dict()) == list(model.state_dict())
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in model.named_parameters()]
    ids, clusters = token_ids(3), torch.tensor([0, 3, 3])
    with torch.no_grad():
        expected = plain(input_ids=ids, cluster_ids=clusters).logits
        assert torch.equal(model(input_ids=ids, cluster_ids=clusters).logits, expected)


def test_merging_gives_the_plain_model_back():
    expected = tiny_peft().merge_and_unload(cluster=2)
    found = fused_peft().eval().merge_and_unload(cluster=2)
    assert not any(isinstance(module, GatedMlp) for module in found.modules())
    assert type(found.model.layers[0].mlp) is type(expected.model.layers[0].mlp)
    assert list(found.state_dict()) == list(expected.state_dict())
    ids = token_ids(2)
    assert torch.equal(found(ids).logits, expected(ids).logits)


def test_a_model_of_one_layer_is_routed_at_its_mlp():
    # All its sites lie in one MLP, which is called with the ids itself.
    model = get_peft_model(tiny_llama(num_hidden_layers=1), config()).train()
    model.base_model.fuse_mlps(MlpNames())
    mlp = model.get_base_model().model.layers[0].mlp
    model.eval()
    x, clusters = torch.randn(2, 3, 32), torch.tensor([0, 1])
    found = mlp(x, cluster_ids=clusters)
    model.base_model.fused = False
    assert relative_error(found, mlp(x, cluster_ids=clusters)) < 1e-6


def test_other_mlps_are_left_alone():
    model = get_peft_model(tiny_llama(hidden_act="relu"), config())
    assert model.base_model.fuse_mlps(MlpNames()) == 0
    model = get_peft_model(tiny_llama(), config())
    assert model.base_model.fuse_mlps(MlpNames(gate="w1")) == 0
    assert model.base_model.fuse_mlps(MlpNames(), within="vision") == 0
    model = get_peft_model(tiny_llama(), config(target_modules=["q_proj"]))
    assert model.base_model.fuse_mlps(MlpNames()) == 0


# ------ where it cannot run


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda model: None, "dropout"),
        (lambda model: _quantize(model), "Other"),
    ],
    ids=["dropout", "another linear"],
)
def test_it_says_once_why_it_cannot_run(prepare, message, calls, caplog):
    model = fused_peft(lora_dropout=0.5 if message == "dropout" else 0.0)
    prepare(model)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            model(input_ids=token_ids(2), cluster_ids=torch.tensor([0, 1]))
    assert calls == []
    assert [message in record.message for record in caplog.records] == [True]


class Other(torch.nn.Linear):
    """A linear whose forward may be anything."""


def _quantize(model):
    for layer in model.get_base_model().model.layers:
        layer.mlp.gate_proj.__class__ = Other


@pytest.mark.parametrize("state", ["disabled", "merged", "no gradient", "switched off"])
def test_it_steps_aside_without_a_word(state, calls, caplog):
    model = fused_peft().eval()
    ids, clusters = token_ids(2), torch.tensor([1, 1])
    with caplog.at_level(logging.WARNING):
        if state == "disabled":
            with model.disable_adapter():
                model(input_ids=ids)
        elif state == "merged":
            model.merge_adapter(cluster=1)
            model(input_ids=ids)
        elif state == "switched off":
            model.base_model.fused = False
            model(input_ids=ids, cluster_ids=clusters)
        else:
            with torch.no_grad():
                model(input_ids=ids, cluster_ids=clusters)
    assert calls == []
    assert caplog.records == []


def test_experts_kept_wider_than_the_base_are_computed_linear_by_linear(calls):
    model = fused_peft()
    model.get_base_model().to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "experts_" in name:
            parameter.data = parameter.data.float()
    model(input_ids=token_ids(2), cluster_ids=torch.tensor([0, 1]))
    assert calls == []
