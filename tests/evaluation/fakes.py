"""A predictor without a model: the answer follows from the question alone."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.inference.request import Prediction, Ranking, Request


class FakePredictor:
    """Answers with `answers[prompt]`, else with the prompt's length; cluster = length % 3."""

    def __init__(self, answers: Mapping[str, str] | None = None, model_id: str = "fake@00000000", delay: float = 0.0):
        self.answers = dict(answers or {})
        self.model_id = model_id
        self.delay = delay
        self.path = Path("fake")
        self.settings = "template=fake dtype=float32"
        self.context_length: int | None = None
        self.sees_sizes = False
        self.batches: list[list[Request]] = []

    def predict_batch(self, requests: Sequence[Request], **settings: Any) -> list[Prediction]:
        self.batches.append(list(requests))
        time.sleep(self.delay)
        return [
            Prediction(self.answers.get(r.prompt, f"{len(r.prompt)} letters"), len(r.prompt) % 3, 0.25, 2)
            for r in requests
        ]

    def routes(self, requests: Sequence[Request]) -> list[int | None]:
        return [len(request.prompt) % 3 for request in requests]

    def length(self, request: Request, candidates: Sequence[str] = ()) -> int:
        """A letter is a token, and an image ten."""
        longest = max((len(candidate) for candidate in candidates), default=0)
        return len(request.prompt) + 10 * len(request.image_list) + longest

    def rank(self, request: Request, candidates: Sequence[str]) -> Ranking:
        """The longer a candidate, the less likely."""
        return Ranking(tuple(-float(len(candidate)) for candidate in candidates), len(request.prompt) % 3, 0.25)

    def routing_text(self, row: Mapping[str, Any]) -> str | None:
        return f"routed: {row['conversations'][0]['value']}"
