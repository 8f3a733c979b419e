"""Likelihood ranking against one full forward a candidate."""

import pytest
import torch

from llava_mocle.data.conversation import ASSISTANT, HUMAN
from llava_mocle.data.tokenize import tokenize_row
from llava_mocle.errors import DataError
from llava_mocle.inference import Request
from llava_mocle.inference.ranking import CANDIDATES_AT_ONCE, _log_probabilities, split_prefix
from tests.inference import tiny

CANDIDATES = ["yes", "no", "a red circle", "A", "circle", "circles", "ünïcode", "yes and no, three of them"]


def one_at_a_time(predictor, request, candidates, cluster):
    """The definition: the loss of the whole conversation times its number of supervised tokens, in a forward each."""
    scores = []
    for candidate in candidates:
        prompt = "<image>\n" * len(request.image_list) + request.prompt
        row = {"image": [""] * len(request.image_list)}
        row["conversations"] = [{"from": HUMAN, "value": prompt}, {"from": ASSISTANT, "value": candidate}]
        sample = tokenize_row(
            row, predictor.template, predictor.tokenizer,
            image_token_id=predictor.loaded.image_token_id,
            image_tokens_per_image=predictor.loaded.image_tokens_per_image,
        )  # fmt: skip
        inputs = {"input_ids": sample["input_ids"][None], "labels": sample["labels"][None]}
        if request.image_list:
            inputs |= predictor.encoder.candidates(predictor._turns(request), request.image_list, ["x"]).inputs
        if cluster is not None:
            inputs["cluster_ids"] = torch.tensor([cluster])
        with torch.inference_mode():
            loss = predictor.model(**inputs).loss
        scores.append(-float(loss) * int((sample["labels"] != -100).sum()))
    return scores


@pytest.mark.parametrize("with_image", [True, False])
@pytest.mark.parametrize("question", tiny.QUESTIONS[:3])
def test_scores_equal_one_candidate_at_a_time(predictor, images, question, with_image) -> None:
    request = Request(question, images[0] if with_image else None)
    ranking = predictor.rank(request, CANDIDATES)
    expected = one_at_a_time(predictor, request, CANDIDATES, ranking.cluster_id)
    assert ranking.scores == pytest.approx(expected, rel=1e-5)
    assert ranking.best == expected.index(max(expected))


def test_log_probabilities_of_a_real_vocabulary() -> None:
    """Against float64. Rounding the result alone costs 1e-6; float32 `cross_entropy` misses 2e-5."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(40, 49152, generator=generator)
    tokens = torch.randint(0, 49152, (40,), generator=generator)
    expected = torch.log_softmax(logits.double(), dim=-1)[torch.arange(40), tokens]
    assert (_log_probabilities(logits, tokens).double() - expected).abs().max() < 5e-6


def test_candidates_of_all_lengths_keep_their_places(predictor) -> None:
    candidates = [f"{'very ' * (n * 7 % 11)}good {n}" for n in range(CANDIDATES_AT_ONCE + 3)]
    request = Request(tiny.QUESTIONS[1], cluster_id=2)
    expected = one_at_a_time(predictor, request, candidates, 2)
    assert predictor.rank(request, candidates).scores == pytest.approx(expected, rel=1e-5)


def test_more_candidates_than_fit_at_once(predictor, images) -> None:
    candidates = [f"answer {number}" for number in range(CANDIDATES_AT_ONCE + 3)]
    request = Request(tiny.QUESTIONS[0], images[1], cluster_id=1)
    ranking = predictor.rank(request, candidates)
    assert len(ranking.scores) == len(candidates)
    assert ranking.scores == pytest.approx(one_at_a_time(predictor, request, candidates, 1), rel=1e-5)


def test_the_question_is_computed_once(predictor, images) -> None:
    calls = []
    tower = predictor.model.get_base_model().model.vision_tower
    handle = tower.register_forward_hook(lambda *_: calls.append(1))
    predictor.rank(Request(tiny.QUESTIONS[0], images[0]), CANDIDATES)
    handle.remove()
    assert calls == [1]


def test_a_candidate_that_begins_another(predictor) -> None:
    """No token that one of them does not share may be in the prefix."""
    rows = [
        {"input_ids": torch.tensor([1, 5, 6, 7]), "labels": torch.tensor([-100, -100, 6, 7])},
        {"input_ids": torch.tensor([1, 8, 9]), "labels": torch.tensor([-100, -100, 9])},
    ]
    prefix, own = split_prefix(rows)
    assert prefix.tolist() == [1]
    assert [part.tolist() for part in own] == [[5, 6, 7], [8, 9]]


@pytest.mark.parametrize("candidates", [[], ["yes", " "]])
def test_nothing_to_rank(predictor, candidates) -> None:
    with pytest.raises(DataError, match="candidates are"):
        predictor.rank(Request(tiny.QUESTIONS[0]), candidates)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_mixed_batch_answers_as_alone(predictor, images, num_beams) -> None:
    """64 questions with and without pictures, of all clusters: batch 16 against batch 1, in float32."""
    requests = [
        Request(f"{tiny.QUESTIONS[n % 6]} {n}", images[n % 6] if n % 3 else None, cluster_id=n % 3) for n in range(64)
    ]
    settings = {"max_new_tokens": 6, "num_beams": num_beams}
    alone = [predictor.predict_batch([request], **settings)[0] for request in requests]
    together = [
        p for start in range(0, 64, 16) for p in predictor.predict_batch(requests[start : start + 16], **settings)
    ]
    assert [p.text for p in together] == [p.text for p in alone]
    assert [p.num_tokens for p in together] == [p.num_tokens for p in alone]
