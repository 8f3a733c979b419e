"""Names of modules: what is adapted, and what is trained beside it."""

import re

import pytest
import torch
from torch import nn

from llava_mocle.errors import ConfigError
from llava_mocle.families.parts import Parts, connector_parameters, linears_of, target_names, target_pattern

PARTS = Parts("text_model", "vision", ("connector", "norm.post"), ("queries",))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text_model = nn.ModuleDict({"q_proj": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
        self.vision = nn.ModuleDict({"q_proj": nn.Linear(2, 2), "norm": nn.ModuleDict({"post": nn.LayerNorm(2)})})
        self.connector = nn.Linear(2, 2, bias=False)
        self.connector_bias = nn.Parameter(torch.zeros(2))
        self.queries = nn.Parameter(torch.zeros(1, 2))
        self.more_queries = nn.Parameter(torch.zeros(1, 2))


def test_linears_of_the_language_model_alone() -> None:
    assert linears_of(PARTS, Model()) == ["text_model.q_proj"]


def test_whole_names_count() -> None:
    """Neither `connector_bias` nor `more_queries` is a part of the connector."""
    expected = {"connector.weight", "vision.norm.post.weight", "vision.norm.post.bias", "queries"}
    assert connector_parameters(PARTS, Model()) == expected


def test_the_pattern_takes_dots_for_dots() -> None:
    pattern = target_pattern(PARTS, "q_proj, up.proj")
    assert re.fullmatch(pattern, "model.text_model.layers.0.q_proj")
    assert re.fullmatch(pattern, "model.text_model.layers.0.up.proj")
    assert not re.fullmatch(pattern, "model.text_model.layers.0.up_proj")
    assert not re.fullmatch(pattern, "model.vision.layers.0.q_proj")
    assert target_pattern(PARTS, r".*mine") == r".*mine"


def test_no_names() -> None:
    with pytest.raises(ConfigError, match="lora_target_modules is empty"):
        target_names(" , ")
