"""Which names are bare parameters, and what is said about those that are not."""

import pytest
from peft import get_peft_model
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from llava_mocle.adapter.bare_parameters import find_parameters
from llava_mocle.errors import ConfigError

from .helpers import config, tiny_llava
from .instructblip import MODULES, tiny_instructblip, tiny_peft_instructblip


def test_names_match_whole_words_from_their_end():
    model = tiny_instructblip()
    model.second = nn.Sequential(nn.Linear(2, 2))
    model.second.query_tokens = nn.Parameter(model.query_tokens.detach())
    model.second.other_query_tokens = nn.Parameter(model.query_tokens.detach())

    def found(*names):
        return list(find_parameters(model, config(parameters_to_save=list(names))))

    assert found("query_tokens") == ["query_tokens", "second.query_tokens"]
    assert found("second.query_tokens") == ["second.query_tokens"]
    assert found("embeddings.class_embedding") == ["vision_model.embeddings.class_embedding"]
    assert found() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"parameters_to_save": ["query_tokenz"]},
            ["'query_tokenz'", "no bare parameter", "query_tokens, vision_model.embeddings.class_embedding, "],
        ),
        ({"parameters_to_save": ["tokens"]}, ["'tokens'", "no bare parameter"]),
        ({"parameters_to_save": ["language_projection"]}, ["a module", "modules_to_save=['language_projection']"]),
        ({"parameters_to_save": ["post_layernorm.weight"]}, ["modules_to_save=['post_layernorm']"]),
        ({"modules_to_save": ["query_tokens"]}, ["no module", "parameters_to_save=['query_tokens']"]),
        (
            {"modules_to_save": ["vision_model"], "parameters_to_save": ["class_embedding"]},
            ["'vision_model.embeddings.class_embedding'", "'vision_model' of modules_to_save", "leave it out"],
        ),
        ({"parameters_to_save": "query_tokens"}, ["must be a list of names"]),
    ],
)
def test_names_of_another_kind_are_refused_before_the_model_is_touched(changes, words):
    model = tiny_instructblip()
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(ConfigError) as error:
        get_peft_model(model, config(target_modules=["q_proj"], **changes))
    for word in words:
        assert word in str(error.value)
    assert [name for name, _ in model.named_modules()] == before


def test_a_model_without_bare_parameters_says_so():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="It has none"):
        get_peft_model(model, config(task_type=None, target_modules=["0"], parameters_to_save=["query_tokens"]))


def test_a_long_list_is_cut():
    with pytest.raises(ConfigError, match=r"class_embedding\.") as short:
        find_parameters(tiny_llava(), config(parameters_to_save=["nothing"]))
    assert "more" not in str(short.value)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(1, 1)) for _ in range(21)))
    for block in model:
        block.scale = nn.Parameter(block[0].weight.detach())
    with pytest.raises(ConfigError, match=r"0\.scale, .*, 19\.scale and 1 more\.$"):
        find_parameters(model, config(parameters_to_save=["nothing"]))


def test_the_trained_modules_of_instructblip_are_those_three():
    model = tiny_peft_instructblip()
    wrapped = [
        name for name, module in model.get_base_model().named_modules() if isinstance(module, ModulesToSaveWrapper)
    ]
    assert sorted(wrapped) == ["language_projection", "qformer", "vision_model.post_layernorm"]
    assert len(wrapped) == len(MODULES)
