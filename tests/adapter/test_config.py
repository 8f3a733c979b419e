import json

import pytest
from peft import PeftConfig

from llava_mocle.adapter import MocleConfig
from llava_mocle.errors import ConfigError

from .helpers import config, plain_lora
from .learned import learned


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"router": "random"}, ["random", "cluster, dataset, token, sentence, none"]),
        ({"router": "none"}, ["num_experts=4", "universal_expert=False"]),
        ({"router": "dataset", "num_clusters": None}, ["num_clusters", "number of datasets"]),
        ({"router": "dataset", "centroids": "x"}, ["centroids='x'", "drop"]),
        ({"num_clusters": None}, ["centroids", "num_clusters=None"]),
        ({"top_k": 2}, ["top_k=2", "universal_expert=True"]),
        ({"top_k": 3, "universal_expert": False}, ["top_k=3", "1 or 2"]),
        ({"top_k": 2, "num_experts": 1, "universal_expert": False}, ["top_k=2", "num_experts=1"]),
        ({"gate_mode": "new"}, ["new", "paper, released"]),
        ({"temperature": 0.0}, ["temperature=0.0", "above 0"]),
        ({"r": 0}, ["r=0"]),
        ({"lora_dropout": 1.0}, ["lora_dropout=1.0"]),
        ({"gate_noise_std": -1.0}, ["gate_noise_std=-1.0"]),
        ({"bias": "all"}, ["bias='all'", "none"]),
        ({"num_clusters": 0}, ["num_clusters=0"]),
    ],
)
def test_contradictions_are_named(changes, words):
    with pytest.raises(ConfigError) as error:
        config(**changes)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("router", ["token", "sentence"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"universal_expert": True}, ["universal_expert=True", "set universal_expert=False"]),
        ({"gate_mode": "released"}, ["gate_mode='released'"]),
        ({"centroids": "x"}, ["centroids='x'"]),
        ({"num_clusters": 4}, ["num_clusters=4", "set num_clusters=None"]),
        ({"gate_sharing": "layer"}, ["'layer'", "site, block, model"]),
        ({"expert_weight": "two"}, ["'two'", "probability, one, renormalized"]),
        ({"expert_weight": "renormalized"}, ["top_k=2", "found top_k=1"]),
        ({"expert_weight": "one", "top_k": 2, "balance_loss_weight": 0.1}, ["top_k=1", "found top_k=2"]),
        ({"expert_weight": "one"}, ["without a gradient", "balance_loss_weight above 0"]),
        ({"balance_loss_weight": -1.0}, ["balance_loss_weight=-1.0"]),
        ({"num_experts": 1, "top_k": 2}, ["top_k=2", "num_experts=1"]),
    ],
)
def test_what_a_learned_router_does_not_take(router, changes, words):
    with pytest.raises(ConfigError) as error:
        learned(router, **changes)
    for word in words:
        assert word in str(error.value)


def test_the_token_router_has_no_gate_for_all_layers():
    assert learned("sentence", gate_sharing="model").gate_sharing == "model"
    with pytest.raises(ConfigError, match="gate_sharing='model' needs router='sentence'"):
        learned("token", gate_sharing="model")


@pytest.mark.parametrize("name", ["gate_sharing", "gate_bias", "expert_weight", "balance_loss_weight"])
@pytest.mark.parametrize("make", [config, plain_lora])
def test_options_of_the_learned_routers_are_refused_elsewhere(name, make):
    value = {"gate_sharing": "block", "gate_bias": True, "expert_weight": "one", "balance_loss_weight": 0.1}[name]
    with pytest.raises(ConfigError, match=f"{name}={value!r} is an option of the token and sentence routers"):
        make(**{name: value})


def test_noise_default_depends_on_the_gate_mode():
    assert config(num_experts=4).noise_std == 0.5
    assert config(gate_mode="released").noise_std == 0.1
    assert config(gate_noise_std=0.0).noise_std == 0.0


def test_dataset_router_has_a_default_dimension():
    assert MocleConfig(router="dataset", num_clusters=3, target_modules=["x"]).cluster_dim == 384


def test_saved_config_comes_back_without_the_centroids_path(tmp_path):
    original = config(centroids="somewhere", target_modules=["b", "a"])
    original.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["centroids"] is None
    assert written["target_modules"] == ["a", "b"]
    loaded = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(loaded, MocleConfig)
    assert {**loaded.to_dict()} == original.to_dict()


def test_slots_and_scaling():
    assert config().num_slots == 5
    assert config(universal_expert=False).num_slots == 4
    assert plain_lora().num_slots == 1
    assert config(r=4, lora_alpha=6).scaling == 1.5
