import pytest
import torch

from llava_mocle.errors import CheckpointError
from llava_mocle.model.legacy import from_hf, to_hf
from tests.model import parts


def test_names_both_ways(llava):
    state = llava.state_dict()
    original = from_hf(state)
    assert set(original) == parts.ORIGINAL_NAMES
    assert original["model.mm_projector.2.bias"] is state["model.multi_modal_projector.linear_2.bias"]
    back = to_hf(original)
    assert list(back) == list(state)
    assert all(back[name] is state[name] for name in state)
    assert from_hf(back).keys() == original.keys()


def test_unknown_names_are_an_error(llava):
    with pytest.raises(CheckpointError, match=r"model\.image_newline"):
        to_hf(from_hf(llava.state_dict()) | {"model.image_newline": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"embed_tokens"):
        from_hf({"model.embed_tokens.weight": torch.zeros(1)})
