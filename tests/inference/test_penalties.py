"""Beams, length penalty and repetition penalty against a loop written out by hand."""

import json

import pytest
import torch

from llava_mocle.cli.main import main
from llava_mocle.errors import ConfigError
from llava_mocle.inference import Request
from llava_mocle.inference.generation import AnswerRepetition
from tests.inference import tiny
from tests.inference.plain_generation import plain_beams, plain_greedy

END = 2
LONGEST = 10


@pytest.fixture(scope="module")
def requests(images) -> list[Request]:
    """With and without an image, of different lengths and clusters."""
    return [Request(text, images[number] if number % 2 else None) for number, text in enumerate(tiny.QUESTIONS[:5])]


def logits_of(predictor, request: Request):
    """The next token's logits, from one full forward of this request alone."""
    sample = predictor._sample(request)
    prompt = sample.pop("input_ids")
    clusters, _ = predictor.prompt_router.route([request])
    inputs = sample | predictor._routing_inputs([request], clusters)

    def next_logits(new: list[int]) -> torch.Tensor:
        ids = torch.cat([prompt, torch.tensor(new, dtype=torch.long)])[None]
        with torch.inference_mode():
            return predictor.model(input_ids=ids, **inputs).logits[0, -1]

    return next_logits


def text_of(predictor, tokens: list[int]) -> str:
    return predictor.tokenizer.decode([token for token in tokens if token != END], skip_special_tokens=True).strip()


@pytest.mark.parametrize("penalty", [1.5, 0.8])
def test_greedy_with_a_repetition_penalty(predictor, requests, penalty: float) -> None:
    found = predictor.predict_batch(requests, max_new_tokens=LONGEST, repetition_penalty=penalty)
    plain = [plain_greedy(logits_of(predictor, request), END, LONGEST, penalty) for request in requests]
    assert [prediction.text for prediction in found] == [text_of(predictor, tokens) for tokens in plain]
    # It makes a difference.
    usual = predictor.predict_batch(requests, max_new_tokens=LONGEST)
    assert [prediction.text for prediction in found] != [prediction.text for prediction in usual]


@pytest.mark.parametrize(("length", "repetition"), [(0.0, 1.5), (-1.0, 1.0), (3.0, 1.0), (1.0, 1.5)])
def test_beams_with_penalties(predictor, requests, length: float, repetition: float) -> None:
    """In a batch, as InstructBLIP is asked: 5 beams."""
    settings = {"num_beams": 5, "length_penalty": length, "repetition_penalty": repetition}
    found = predictor.predict_batch(requests, max_new_tokens=LONGEST, **settings)
    plain = [plain_beams(logits_of(predictor, one), END, LONGEST, 5, length, repetition) for one in requests]
    assert [prediction.text for prediction in found] == [text_of(predictor, tokens) for tokens in plain]


def test_a_length_penalty_chooses_short_or_long_answers(predictor, requests) -> None:
    def lengths(penalty: float) -> list[int]:
        made = predictor.predict_batch(requests, max_new_tokens=LONGEST, num_beams=5, length_penalty=penalty)
        return [prediction.num_tokens for prediction in made]

    assert sum(lengths(-3.0)) < sum(lengths(3.0))


def test_only_the_answers_own_tokens_are_punished() -> None:
    """The prompts hold tokens 0 and 3, one as padding; the answers then hold 1, and 2."""
    punish = AnswerRepetition(2.0)
    scores = torch.tensor([[4.0, 3.0, -2.0, 1.0], [4.0, 3.0, -2.0, 1.0]])
    prompts = torch.tensor([[3, 0], [0, 0]])
    assert torch.equal(punish(prompts, scores), scores)
    answers = torch.cat([prompts, torch.tensor([[1], [2]])], dim=1)
    assert punish(answers, scores).tolist() == [[4.0, 1.5, -2.0, 1.0], [4.0, 3.0, -4.0, 1.0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length_penalty": 0.5}, r"length_penalty is 0\.5, but one beam"),
        ({"length_penalty": float("nan"), "num_beams": 2}, "length_penalty is nan"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
    ],
)
def test_penalties_out_of_range(predictor, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        predictor.predict(None, tiny.QUESTIONS[0], max_new_tokens=2, **settings)


def test_the_flags(checkpoint_dir, predictor, capsys) -> None:
    words = ["generate", "--model", str(checkpoint_dir), "--prompt", tiny.QUESTIONS[0], "--dtype", "float32"]
    words += ["--device", "cpu", "--max-new-tokens", "8", "--json"]
    assert main([*words, "--num-beams", "3", "--length-penalty", "-1", "--repetition-penalty", "1.5"]) == 0
    said = json.loads(capsys.readouterr().out)
    settings = {"num_beams": 3, "length_penalty": -1.0, "repetition_penalty": 1.5}
    expected = predictor.predict(None, tiny.QUESTIONS[0], max_new_tokens=8, **settings).text
    assert said["text"] == expected
    for flag, value in (("--length-penalty", "nan"), ("--repetition-penalty", "0")):
        with pytest.raises(SystemExit):
            main([*words, flag, value])
        assert f"argument {flag}: {value}: expected" in capsys.readouterr().err
