import json

import pytest
from peft import PeftConfig

from llava_mocle.adapter import MocleConfig
from llava_mocle.errors import ConfigError

from .helpers import config, plain_lora


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"router": "token"}, ["token", "not available yet", "cluster"]),
        ({"router": "sentence"}, ["sentence", "not available yet"]),
        ({"router": "random"}, ["random", "cluster, dataset, none"]),
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
