import pytest
import torch
from tokenizers import AddedToken

from llava_mocle.inference import Request
from llava_mocle.inference.generation import Stopping, TieRecorder, decode, find_stopping, generation_config
from tests.inference.tiny import QUESTIONS, tiny_tokenizer


@pytest.fixture
def tokenizer():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True, normalized=False)], special_tokens=True)
    return tokenizer


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


def test_near_ties_are_noted_until_a_row_ends():
    recorder = TieRecorder(end_ids=[2, 3], margin=0.1)
    assert recorder.rows == []
    prompts = torch.tensor([[5, 2], [5, 3], [5, 5], [5, 5]])
    scores = torch.tensor([[1.0, 0.0, 0.5], [1.0, 0.95, 0.5], [0.0, 1.0, 0.8], [0.0, 1.0, 0.8]])
    assert recorder(prompts, scores) is scores
    assert recorder.rows == [1]
    # Row 2 has ended, so its tie means nothing; row 3 has not; row 0's prompt only looked like an end.
    tie = torch.tensor([[1.0, 0.0, 0.99], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    recorder(torch.tensor([[5, 2, 7], [5, 3, 7], [5, 5, 2], [5, 5, 7]]), tie)
    assert recorder.rows == [0, 1, 3]


def test_a_row_at_a_tie_is_answered_alone(predictor, monkeypatch):
    """A model whose batches choose the other token of a tie: the answers are those of single requests all the same."""
    requests = [Request(question) for question in QUESTIONS]
    single = [predictor.predict_batch([request], max_new_tokens=6)[0] for request in requests]
    generate = predictor.model.generate
    sizes = []

    def generate_with_noise(**inputs):
        rows = len(inputs["input_ids"])
        sizes.append(rows)
        output = generate(**inputs)
        if rows > 1:
            for processor in inputs["logits_processor"]:
                processor.close[1] = True
            output[1, -1] = 17
        return output

    monkeypatch.setattr(predictor.model, "generate", generate_with_noise)
    assert predictor.predict_batch(requests, max_new_tokens=6) == single
    assert sizes == [6, 1]
