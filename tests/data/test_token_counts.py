"""Counts of many texts at once against the tokens of each text alone."""

import random
from types import SimpleNamespace

import pytest
from transformers import PreTrainedTokenizerFast

from llava_mocle.data.token_counts import count_tokens
from llava_mocle.data.tokenize import Piece, encode_piece, lead_of

PARTS = ("x", " ", "\n", "  y", "hello", "猫", "é", "\U0001f600", "<|im_end|>", "</s>", "▁", "USER:", " the fox", "ﬁ")


def random_pieces(count: int, seed: int) -> list[Piece]:
    """Texts of up to 12 parts, each with up to 2 spans anywhere, some of them beyond its end."""
    chance = random.Random(seed)
    pieces = []
    for _ in range(count):
        text = "".join(chance.choices(PARTS, k=chance.randrange(13)))
        marks = sorted(chance.sample(range(len(text) + 12), 4))
        spans = [(marks[0], marks[1]), (marks[2], marks[3])][: chance.randrange(3)]
        pieces.append((text, spans))
    return pieces


@pytest.mark.parametrize("name", ["chatml", "trimming", "legacy", "modern"])
def test_counts_are_those_of_the_tokens(
    name: str, chatml: PreTrainedTokenizerFast, trimming: PreTrainedTokenizerFast, llama: SimpleNamespace
) -> None:
    tokenizer = {"chatml": chatml, "trimming": trimming, "legacy": llama.legacy, "modern": llama.modern}[name]
    pieces = random_pieces(1500, seed=1)
    counted = 0
    for (text, spans), count in zip(pieces, count_tokens(pieces, tokenizer), strict=True):
        tokens = encode_piece(text, spans, tokenizer)
        if count is None:
            # The text has to be cut where a span starts. It then has other tokens than in one piece, but for spaces
            # that the offsets leave out, as the cut may be where the tokens are parted anyway.
            assert name == "trimming" or [token for token, _ in tokens] != _in_one(text, tokenizer)
            continue
        own = [within for _, within in tokens]
        assert count.tokens == len(tokens)
        if count.unsupervised is not None:
            assert any(own)
            first = min(start for start, _ in spans)
            assert own.index(True) == count.unsupervised or first >= len(text)
            counted += 1
        else:
            # Not known is allowed where an answer's last character has no token of its own.
            assert not any(own) or name == "trimming"
    assert counted > 300


def _in_one(text: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    return tokenizer(lead_of(text, tokenizer) + text, add_special_tokens=False).input_ids


def test_the_count_in_front_of_an_answer(chatml: PreTrainedTokenizerFast) -> None:
    """By hand: nine letters that each are a token of their own."""
    text = "qwqwqwqwq"
    assert len(chatml(text).input_ids) == 9
    found = count_tokens([(text, [(4, 9)]), (text, [(0, 2)]), (text, []), (text, [(9, 12)]), ("", [])], chatml)
    assert [(count.tokens, count.unsupervised) for count in found if count] == [
        (9, 4),
        (9, 0),
        (9, None),
        (9, None),
        (0, None),
    ]


def test_a_tokenizer_without_offsets_counts_nothing() -> None:
    assert count_tokens([("x", [])], SimpleNamespace(is_fast=False)) == [None]
    assert count_tokens([], SimpleNamespace(is_fast=True)) == []
