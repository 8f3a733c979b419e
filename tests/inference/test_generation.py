import pytest
import torch
from tokenizers import AddedToken

from llava_mocle.inference.generation import Stopping, decode, find_stopping, generation_config, left_pad
from tests.inference.tiny import tiny_tokenizer


@pytest.fixture
def tokenizer():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True, normalized=False)], special_tokens=True)
    return tokenizer


def test_left_pad_puts_every_last_token_last():
    ids, mask = left_pad([torch.tensor([5, 6, 7]), torch.tensor([8])], pad_id=3)
    assert ids.tolist() == [[5, 6, 7], [3, 3, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_end_of_turn_is_a_token_where_it_is_one(tokenizer):
    im_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert find_stopping(tokenizer, "</s>") == Stopping((2,), ())
    assert find_stopping(tokenizer, "<|im_end|>") == Stopping((2, im_end), ())
    assert find_stopping(tokenizer, "\n") == Stopping((2,), ("\n",))
    assert find_stopping(tokenizer, "### END") == Stopping((2,), ("### END",))


def test_decode_stops_strips_and_counts(tokenizer):
    def ids(text):
        return tokenizer.encode(text, add_special_tokens=False)

    im_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    answer = ids(" circle ")
    after = torch.tensor([*answer, im_end, *ids("rubbish")])
    assert decode(tokenizer, after, Stopping((2, im_end), ())) == ("circle", len(answer))
    assert decode(tokenizer, torch.tensor([2, 3, 3]), Stopping((2,), ())) == ("", 0)
    by_text = torch.tensor(ids("circle") + ids("\n") + ids("rubbish"))
    assert decode(tokenizer, by_text, Stopping((2,), ("\n",))) == ("circle", len(ids("circle")))


def test_settings_owe_nothing_to_the_models_own(tokenizer):
    config = generation_config(
        tokenizer, Stopping((2,), ()), max_new_tokens=5, num_beams=2, temperature=0.0, top_p=None
    )
    assert (config.do_sample, config.num_beams, config.max_new_tokens) == (False, 2, 5)
    assert (config.repetition_penalty, config.no_repeat_ngram_size, config.length_penalty) == (1.0, 0, 1.0)
    assert config.eos_token_id == [2]
    assert config.pad_token_id == 3
