"""Gates read from a saved adapter alone, against those of the adapted model."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from llava_mocle.adapter import MocleConfig
from llava_mocle.adapter.saved_gates import saved_gates
from llava_mocle.errors import CheckpointError, ConfigError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(4, 6), "down": nn.Linear(6, 4)}) for _ in range(3))

    def forward(self, x, **_):
        for layer in self.layers:
            x = layer["down"](layer["up"](x))
        return x


def saved(folder, **options):
    torch.manual_seed(0)
    config = MocleConfig(target_modules=["up", "down"], r=2, **options)
    model = get_peft_model(Net(), config)
    model.save_pretrained(str(folder))
    return model, MocleConfig.from_pretrained(str(folder))


@pytest.mark.parametrize(
    "options",
    [
        {"num_clusters": 5, "cluster_dim": 7, "temperature": 0.1},
        {"num_clusters": 3, "cluster_dim": 7, "gate_mode": "released"},
        {"num_clusters": 4, "router": "dataset", "universal_expert": False, "top_k": 2},
        {"num_clusters": 3, "router": "dataset", "dataset_groups": [0, 1, 0]},
        {"num_clusters": 4, "cluster_dim": 7, "gates": "fixed", "universal_expert": False},
    ],
    ids=["paper", "released", "dataset", "groups", "fixed"],
)
def test_the_gates_are_those_of_the_model(tmp_path, options) -> None:
    """The same function on the same weights: equal to the bit."""
    model, config = saved(tmp_path, **options)
    expected = model.base_model.clean_gates()
    found = saved_gates(tmp_path, config)
    assert found.shape == (options["num_clusters"], 6, 4)
    assert torch.equal(found, expected)


def test_a_plain_lora_has_no_gates(tmp_path) -> None:
    _, config = saved(tmp_path, router="none", num_experts=1, universal_expert=False)
    with pytest.raises(ConfigError, match=r"single LoRA \(router none\): it has one expert, and no gates"):
        saved_gates(tmp_path, config)


def test_weights_that_do_not_fit_are_named(tmp_path) -> None:
    _, config = saved(tmp_path, num_clusters=5, cluster_dim=7)
    config.num_clusters = 6
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: its gates cannot be read .*size mismatch"):
        saved_gates(tmp_path, config)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        saved_gates(tmp_path, config)
