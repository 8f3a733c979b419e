import torch

from llava_mocle.inference import Request
from llava_mocle.inference.near_ties import TieRecorder
from tests.inference.tiny import QUESTIONS


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
