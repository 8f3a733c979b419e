"""How many tokens texts become: the numbers that `encode_piece` gives, for many texts at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llava_mocle.data.tokenize import Piece, extents, lead_of


@dataclass(frozen=True)
class TokenCount:
    """Of one text.

    Attributes:
        tokens: how many it has.
        unsupervised: how many of them come before the first answer; None if none is known to be the assistant's.
    """

    tokens: int
    unsupervised: int | None


def count_tokens(pieces: Sequence[Piece], tokenizer: Any) -> list[TokenCount | None]:
    """Count the tokens of texts as `encode_piece` makes them, in one call of the tokenizer.

    Equal texts are tokenized once: most rows of a file share the text in front of their image.

    Returns:
        of each text its count; None where only `encode_piece` can tell: a token has characters on both sides of an
        answer's start, so the text has to be cut there.
    """
    if not pieces or not getattr(tokenizer, "is_fast", False):
        return [None] * len(pieces)
    leads = [lead_of(text, tokenizer) for text, _ in pieces]
    whole = [lead + text for lead, (text, _) in zip(leads, pieces, strict=True)]
    places = {text: place for place, text in enumerate(dict.fromkeys(whole))}
    encoded = tokenizer(
        list(places), add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )
    encodings = [_Encoded(encoding) for encoding in encoded.encodings]
    return [
        _count(encodings[places[text]], len(lead), piece)
        for text, lead, piece in zip(whole, leads, pieces, strict=True)
    ]


def _count(encoded: "_Encoded", shift: int, piece: Piece) -> TokenCount | None:
    text, spans = piece
    # Later spans are in other pieces of the same row.
    within = [(start, min(end, len(text))) for start, end in spans if start < len(text)]
    before = [encoded.tokens_before(start + shift) if start else 0 for start, _ in within]
    if None in before:
        return None
    known = any(start < end and encoded.has_token(end - 1 + shift) for start, end in within)
    return TokenCount(len(encoded), before[0] if known else None)


class _Encoded:
    """One encoded text, asked about single characters: lists of all tokens and characters would take longer."""

    def __init__(self, encoding: Any) -> None:
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self._encoding)

    def has_token(self, position: int) -> bool:
        """Whether a token stands for the character there."""
        return self._encoding.char_to_token(position) is not None

    def tokens_before(self, position: int) -> int | None:
        """How many tokens stand for the characters before a position above 0; None if one goes on behind it."""
        token = self._encoding.char_to_token(position)
        if token is None or not self.has_token(position - 1):
            # Some tokenizers leave spaces out of the offsets.
            ends = extents(self._encoding.offsets)
            if any(begin < position < end for begin, end in ends):
                return None
            return sum(end <= position for _, end in ends)
        if self._encoding.token_to_chars(token)[0] < position:
            return None
        # A "▁" that stands for no character belongs to what follows it.
        while token and self._encoding.token_to_chars(token - 1)[0] >= position:
            token -= 1
        return token
