"""Options of the router: which go together, and what each of them does to an adapter."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

from llava_mocle.errors import ConfigError

from .helpers import config, plain_lora, tiny_llama, tiny_peft, token_ids

BATCH = token_ids(3)
IDS = torch.tensor([4, 0, 2])
EMBEDDING = "base_model.mocle_router.default.cluster_embedding"


def trainable(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"router": "none", "train_cluster_embedding": False}, "router='none' has no cluster embedding"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        (plain_lora if changes.get("router") == "none" else config)(**changes)


# ------ a cluster embedding that stays at the centroids


@pytest.mark.parametrize("changes", [{}, {"gate_mode": "released"}, {"router": "dataset"}])
def test_a_fixed_embedding_is_saved_and_not_trained(tmp_path, changes):
    name = "dataset_ids" if changes.get("router") == "dataset" else "cluster_ids"
    usual, model = tiny_peft(**changes), tiny_peft(train_cluster_embedding=False, **changes)
    assert trainable(usual) - trainable(model) == {EMBEDDING}
    expected = usual(input_ids=BATCH, **{name: IDS}).logits
    assert torch.equal(model(input_ids=BATCH, **{name: IDS}).logits, expected)
    start = model.get_parameter(EMBEDDING).detach().clone()
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    gates = model.mocle_router["default"].gate_weight.detach().clone()
    for _ in range(2):
        model(input_ids=BATCH, labels=BATCH, **{name: IDS}).loss.backward()
        optimizer.step()
    assert torch.equal(model.get_parameter(EMBEDDING), start)
    assert not torch.equal(model.mocle_router["default"].gate_weight, gates)
    model.eval().save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert torch.equal(saved["base_model.mocle_router.cluster_embedding"], start)
    again = PeftModel.from_pretrained(tiny_llama(), tmp_path, is_trainable=True)
    assert trainable(again) == trainable(model)
    assert torch.equal(again(input_ids=BATCH, **{name: IDS}).logits, model(input_ids=BATCH, **{name: IDS}).logits)


def test_a_fixed_embedding_stays_fixed_where_adapters_are_switched():
    model = get_peft_model(tiny_llama(), config(train_cluster_embedding=False))
    before = trainable(model)
    model.add_adapter("second", config())
    model.set_adapter("second")
    model.set_adapter("default")
    assert trainable(model) == before
    model.set_requires_grad("default", False)
    model.set_requires_grad("default", True)
    assert trainable(model) == before
