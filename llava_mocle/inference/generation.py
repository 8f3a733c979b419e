"""Generating answers: settings, stopping, decoding, and finding the answers that batching may have changed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, RepetitionPenaltyLogitsProcessor

from llava_mocle.errors import ConfigError

# A batch and a single row give logits that differ by up to 3.5e-5 (measured on SmolLM2 in float32). This is about ten
# times as much; one token in several thousand is this close.
TIE_MARGIN = 3e-4


@dataclass(frozen=True)
class Stopping:
    """What ends an answer: tokens, and texts for templates whose end of turn isn't one token."""

    token_ids: tuple[int, ...]
    strings: tuple[str, ...]


def find_stopping(tokenizer: Any, end_of_turn: str) -> Stopping:
    """The tokenizer's end of text, and the template's end of turn as a token where it is one, else as text."""
    token_ids = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    if not end_of_turn or end_of_turn == tokenizer.eos_token:
        return Stopping(tuple(token_ids), ())
    end_id = tokenizer.get_vocab().get(end_of_turn)
    is_one_token = end_id is not None and tokenizer.encode(end_of_turn, add_special_tokens=False) == [end_id]
    # An ordinary token such as "\n" may also end a longer one ("\n\n"), which only the text shows.
    if is_one_token and end_of_turn in tokenizer.get_added_vocab():
        return Stopping((*token_ids, int(end_id)), ())
    return Stopping(tuple(token_ids), (end_of_turn,))


def check_decoding(max_new_tokens: int, temperature: float, top_p: float | None) -> None:
    """Refuse a length, a temperature or a nucleus that cannot be.

    Raises:
        ConfigError: a number out of range, or `top_p` without a temperature to sample at.
    """
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens is {max_new_tokens}; it must be at least 1.")
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"temperature is {temperature}; it must be 0 (greedy) or more.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"top_p is {top_p}; it must be above 0 and at most 1.")
    if top_p is not None and top_p < 1 and temperature == 0:
        raise ConfigError(f"top_p is {top_p}, but temperature 0 never samples: set a temperature, or leave top_p out.")


def generation_config(
    tokenizer: Any,
    stopping: Stopping,
    *,
    max_new_tokens: int,
    num_beams: int,
    temperature: float,
    top_p: float | None,
    length_penalty: float = 1.0,
) -> GenerationConfig:
    """Settings that take nothing from the model's generation_config.json, which may sample or punish repetitions.

    Args:
        length_penalty: a beam's score is its summed log-probability over its length to this power.

    Raises:
        ConfigError: a number out of range, `top_p` without a temperature to sample at, or `length_penalty` without
            beams to compare.
    """
    check_decoding(max_new_tokens, temperature, top_p)
    if num_beams < 1:
        raise ConfigError(f"num_beams is {num_beams}; it must be at least 1.")
    if not math.isfinite(length_penalty):
        raise ConfigError(f"length_penalty is {length_penalty}; it must be a finite number.")
    if length_penalty != 1 and num_beams == 1:
        raise ConfigError(
            f"length_penalty is {length_penalty}, but one beam (num_beams 1) is compared with no other: set num_beams, "
            "or leave length_penalty out."
        )
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        do_sample=temperature > 0,
        temperature=temperature if temperature > 0 else 1.0,
        top_p=top_p if top_p is not None else 1.0,
        top_k=50,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        length_penalty=float(length_penalty),
        num_return_sequences=1,
        eos_token_id=list(stopping.token_ids) or None,
        pad_token_id=pad if pad is not None else (stopping.token_ids[0] if stopping.token_ids else 0),
        stop_strings=list(stopping.strings) or None,
        use_cache=True,
    )


def decode(tokenizer: Any, generated: Tensor, stopping: Stopping) -> tuple[str, int]:
    """Text and number of tokens of one row of new tokens (T,), up to what ends it."""
    tokens = generated.tolist()
    end = next((index for index, token in enumerate(tokens) if token in stopping.token_ids), len(tokens))
    tokens = tokens[:end]
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    for string in stopping.strings:
        if string in text:
            text = text[: text.index(string)]
            # Every row of a batch goes on until the last one stops. What came after the stop is not counted.
            tokens = _shortest_with(tokenizer, tokens, string)
    return text.strip(), len(tokens)


def _shortest_with(tokenizer: Any, tokens: list[int], string: str) -> list[int]:
    for length in range(1, len(tokens) + 1):
        if string in tokenizer.decode(tokens[:length], skip_special_tokens=True):
            return tokens[: length - 1]
    return tokens


class AnswerRepetition(LogitsProcessor):
    """Makes tokens that the answer holds already less likely: a logit is divided by the penalty, or multiplied if it is
    negative (Keskar et al., CTRL, 2019).

    transformers' own setting would punish the tokens of the prompt as well, such as the options of a question. LAVIS,
    which generates from embeddings, punishes those of the answer alone; so does this. One object serves one `generate`.

    Args:
        penalty: above 0; 1 changes nothing, more punishes.

    Raises:
        ConfigError: it is not above 0.
    """

    def __init__(self, penalty: float) -> None:
        if not (0 < penalty < math.inf):
            raise ConfigError(f"repetition_penalty is {penalty}; it must be a number above 0.")
        self._punish = RepetitionPenaltyLogitsProcessor(float(penalty))
        self._prompt: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._prompt is None:
            self._prompt = input_ids.shape[1]
        return self._punish(input_ids[:, self._prompt :], scores)


class TieRecorder(LogitsProcessor):
    """Notes the rows that came to a near tie before they ended; leaves the scores as they are.

    The logits of a row differ in their last bits between a padded batch and the row alone. If the logits of the two
    likeliest tokens differ by less than that, the batch would decide which of them is taken. A `Predictor` answers such
    rows again, alone, so that batching does not change greedy answers in float32.

    Args:
        end_ids: tokens after which a row is over, padding included.
        margin: a near tie is a difference of the two largest logits below this.

    Attributes:
        close: (B,) bool, once `generate` has run.
    """

    def __init__(self, end_ids: Sequence[int], margin: float = TIE_MARGIN) -> None:
        self.end_ids = torch.tensor(list(end_ids), dtype=torch.long)
        self.margin = margin
        self.close: Tensor | None = None
        self._ended: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.close is None or self._ended is None:
            # The first call sees prompts, whose last token ends nothing.
            self.close = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
            self._ended = torch.zeros_like(self.close)
        else:
            self._ended |= torch.isin(input_ids[:, -1], self.end_ids.to(input_ids.device))
        first, second = scores.topk(2, dim=-1).values.unbind(dim=-1)
        self.close |= (first - second < self.margin) & ~self._ended
        return scores

    @property
    def rows(self) -> list[int]:
        """The rows that came to a near tie."""
        return [] if self.close is None else self.close.nonzero().flatten().tolist()
