import pytest
import torch
from peft import get_peft_model

from llava_mocle.errors import ConfigError

from .helpers import config, plain_lora, tiny_llama, tiny_llava, tiny_peft, token_ids


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target_modules": ["up_porj"]}, ["up_porj", "up_proj", "q_proj"]),
        ({"target_modules": r".*\.fc1"}, ["fc1", "up_proj"]),
        ({"target_modules": ["up_proj"], "exclude_modules": ["up_proj"]}, ["exclude_modules", "up_proj"]),
        ({"target_modules": ["up_proj"], "layers_to_transform": [7]}, ["layers_to_transform=[7]", "up_proj"]),
        ({"target_modules": None}, ["target_modules is not set"]),
        ({"target_modules": ["embed_tokens"]}, ["embed_tokens", "Embedding", "nn.Linear"]),
        ({"target_modules": ["mlp"]}, ["layers.0.mlp", "LlamaMLP"]),
    ],
)
def test_targets_that_cannot_be_adapted(changes, words):
    model = tiny_llama()
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(ConfigError) as error:
        get_peft_model(model, config(**changes))
    for word in words:
        assert word in str(error.value)
    assert [name for name, _ in model.named_modules()] == names
    model(input_ids=token_ids(1))


def test_a_failed_second_adapter_leaves_the_first_working():
    model = tiny_peft()
    with pytest.raises(ConfigError, match="nothing_like_it"):
        model.add_adapter("second", config(target_modules=["nothing_like_it"]))
    assert list(model.peft_config) == ["default"]
    model(input_ids=token_ids(2), cluster_ids=[0, 1])


def test_vision_towers_are_not_routed():
    with pytest.raises(ConfigError, match=r"vision_tower.*images, not samples.*language_model"):
        get_peft_model(tiny_llava(), config(target_modules=["q_proj", "v_proj"]))
    model = get_peft_model(tiny_llava(), plain_lora(target_modules=["q_proj"]))
    assert any("vision" in site for site in model.sites)


def test_all_linear_and_single_layers():
    everything = get_peft_model(tiny_llama(), config(target_modules="all-linear"))
    assert len(everything.sites) == 2 * 7
    assert not any("lm_head" in site for site in everything.sites)
    one = get_peft_model(tiny_llama(), config(target_modules=["up_proj"], layers_to_transform=1))
    assert one.sites == ["model.layers.1.mlp.up_proj"]
    assert torch.isfinite(one(input_ids=token_ids(2), cluster_ids=[0, 1]).logits).all()
