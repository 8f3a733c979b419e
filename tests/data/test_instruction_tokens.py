"""Which tokens route a row by sentence: those of the text that would route it by cluster, and no others."""

import pytest
import torch

from llava_mocle.adapter.sentence import NO_TOKEN
from llava_mocle.clustering.instruction import InstructionRule
from llava_mocle.data.instruction_tokens import INSTRUCTION_PADDING, InstructionTokens, padded_instructions
from llava_mocle.errors import DataError
from tests.inference.tiny import tiny_tokenizer

ROW = {
    "id": 7,
    "conversations": [
        {"from": "human", "value": "<image>\nWhich plane is shown?"},
        {"from": "gpt", "value": "axial"},
        {"from": "human", "value": "Is there a red square?"},
        {"from": "gpt", "value": "no"},
    ],
}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.mark.parametrize(
    ("turns", "text"),
    [("first", "Which plane is shown?"), ("all", "Which plane is shown?\nIs there a red square?")],
)
def test_the_text_of_the_rule_without_special_tokens(tokenizer, turns, text) -> None:
    ids = InstructionTokens(tokenizer, InstructionRule(turns)).of_row(ROW)
    assert tokenizer.decode(ids) == text
    assert tokenizer("a")["input_ids"][0] == 1  # the start of text that it leaves out
    assert 1 not in ids.tolist()
    assert ids.dtype == torch.int64


def test_a_request_has_the_tokens_of_its_row(tokenizer) -> None:
    tokens = InstructionTokens(tokenizer, InstructionRule())
    assert torch.equal(tokens.of_prompt("<image>\nWhich plane is shown? "), tokens.of_row(ROW))
    assert tokens.of_prompt("<image>").tolist() == []
    assert torch.equal(tokens.of_row(ROW | {"route_text": "Is there"}), tokens.of_prompt("Is there"))
    assert padded_instructions([tokens.of_prompt("<image>"), torch.tensor([3])]).tolist() == [[-1], [3]]


def test_a_row_that_nothing_routes_is_named(tokenizer) -> None:
    with pytest.raises(DataError, match="row with id 7: no turn is from 'human'"):
        InstructionTokens(tokenizer, InstructionRule()).of_row({"id": 7, "conversations": []})


def test_a_batch_is_padded_with_what_the_adapter_takes_for_no_token() -> None:
    # Data does not import the adapter, which would load PEFT in every loader worker.
    assert INSTRUCTION_PADDING == NO_TOKEN
