"""Answers worked out together: one `generate` in which every row has its own limit, sampling, stop and end.

transformers samples all rows of a batch alike, and streams batches of one. So the batch is decoded greedily here, and a
row that samples is offered one token only: the one that was drawn for it. What a row has come to is looked at where
`generate` asks whether to stop, which is once a token and for each row.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from llava_mocle.inference import Predictor
from llava_mocle.inference.generation import TIE_MARGIN, Stopping, generation_config
from llava_mocle.serving.answer import Answer


def answer_together(predictor: Predictor, answers: Sequence[Answer], tokenizer: Any) -> int:
    """Work out answers that nobody has given up, as one batch; they send what they have as they go.

    An answer that is not streamed, and to which the batch may have made a difference, ends without having sent
    anything. It is then to be worked out alone (`Answer.alone`).

    Args:
        predictor: of the calling thread alone.
        tokenizer: its own, or a copy.

    Returns:
        the tokens that were worked out for each row.
    """
    stopping = Stopping(predictor.stopping.token_ids, ())
    config = generation_config(
        tokenizer,
        stopping,
        max_new_tokens=max(answer.limit for answer in answers),
        num_beams=1,
        temperature=0.0,
        top_p=None,
    )
    inputs = predictor.batch([answer.prepared for answer in answers], config.pad_token_id)
    exact = predictor.model.dtype == torch.float32
    choosing = _Choosing(answers, tokenizer, look_for_ties=exact)
    ending = _Ending(answers, tokenizer, choosing)
    with torch.inference_mode():
        predictor.model.generate(
            **inputs,
            generation_config=config,
            logits_processor=LogitsProcessorList([choosing]),
            stopping_criteria=StoppingCriteriaList([ending]),
        )
    return ending.steps


class _Choosing(LogitsProcessor):
    """Draws the tokens of the rows that sample, and notes near ties and log-probabilities.

    Attributes:
        logprobs: row -> log-probabilities (V,) of what it may take, for the rows that ask for them.
    """

    def __init__(self, answers: Sequence[Answer], tokenizer: Any, look_for_ties: bool) -> None:
        self.answers = answers
        self.logprobs: dict[int, Tensor] = {}
        self._look_for_ties = look_for_ties
        self._generators: dict[int, torch.Generator] = {}
        for row, answer in enumerate(answers):
            if not answer.greedy:
                generator = torch.Generator()
                if answer.seed is None:
                    generator.seed()
                else:
                    generator.manual_seed(answer.seed % 2**64)
                self._generators[row] = generator
            elif look_for_ties:
                answer.near_tie = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        going = [row for row, answer in enumerate(self.answers) if not answer.done]
        self.logprobs = {
            row: scores[row].float().log_softmax(dim=-1)
            for row in going
            if self.answers[row].decoding.logprobs is not None
        }
        if self._look_for_ties and len(self.answers) > 1:
            first, second = scores.topk(2, dim=-1).values.unbind(dim=-1)
            for row in (first - second < TIE_MARGIN).nonzero().flatten().tolist():
                self._near_tie(self.answers[row])
        for row in going:
            answer = self.answers[row]
            if not answer.done and not answer.greedy:
                token = draw(scores[row], answer.decoding.temperature, answer.decoding.top_p, self._generators[row])
                scores[row] = -math.inf
                scores[row, token] = 0.0
        return scores

    def _near_tie(self, answer: Answer) -> None:
        if answer.done or not answer.greedy:
            return
        answer.near_tie = True
        if not answer.stream:
            answer.alone = True
            answer.give_up()


def draw(scores: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Sample a token.

    Args:
        scores: (V,) logits.
        top_p: only the likeliest tokens that have this probability together can be drawn.
        generator: on the CPU, so that a seed gives the same on every device but for rounding.
    """
    scores = scores.double().cpu()
    # The largest first becomes 0: divided by a temperature near 0 it would be infinite, and nothing could be drawn.
    probabilities = ((scores - scores.max()) / temperature).softmax(dim=-1)
    if top_p < 1:
        ordered, places = probabilities.sort(descending=True, stable=True)
        # The token that reaches top_p counts, and the likeliest one always.
        ordered[ordered.cumsum(dim=-1) - ordered >= top_p] = 0.0
        return int(places[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(probabilities, 1, generator=generator))


class _Ending(StoppingCriteria):
    """Gives every row its new token and tells which rows are over; those that nobody waits for are too.

    Attributes:
        steps: tokens so far.
    """

    def __init__(self, answers: Sequence[Answer], tokenizer: Any, choosing: _Choosing) -> None:
        self.answers = answers
        self.steps = 0
        self._tokenizer = tokenizer
        self._choosing = choosing

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.steps += 1
        for row, (answer, token) in enumerate(zip(self.answers, input_ids[:, -1].tolist(), strict=True)):
            if answer.cancelled:
                answer.give_up()
            if not answer.done:
                answer.take(token, self._tokenizer, self._logprob(row, token))
        return torch.tensor([answer.done for answer in self.answers], device=input_ids.device)

    def _logprob(self, row: int, token: int) -> dict[str, Any] | None:
        """A token with its log-probability and the likeliest ones beside it, as OpenAI writes them."""
        found = self._choosing.logprobs.get(row)
        if found is None:
            return None
        count = self.answers[row].decoding.logprobs or 0
        best = found.topk(count) if count else None
        others = [] if best is None else zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return self._entry(token, float(found[token])) | {
            "top_logprobs": [self._entry(other, value) for other, value in others]
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._tokenizer.decode([token])
        return {"token": text, "logprob": logprob, "bytes": None if "�" in text else list(text.encode())}
