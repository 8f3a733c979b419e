"""Rendered text -> `input_ids` and `labels`. The template says which characters are supervised, this file which tokens.

The text is cut at the image tags and each piece is tokenized on its own, as LLaVA-1.5 does: a piece gets whatever the
tokenizer does at the start of a text (Llama's "▁"), and the start-of-text token goes in once, at the very front.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tokenizers.pre_tokenizers import Metaspace

from llava_mocle.data.conversation import IMAGE_TOKEN, Rendered, Template, Turn, row_images, row_turns
from llava_mocle.errors import ConfigError, DataError

IGNORE_INDEX = -100
_SPACE = "▁"

# A text without image tags, and the characters of it that the assistant wrote.
Piece = tuple[str, Sequence[tuple[int, int]]]


class RowTooLong(DataError):
    """Truncation would cut into an image, or leave nothing to learn from."""


def tokenize_row(
    row: Mapping[str, Any],
    template: Template,
    tokenizer: Any,
    *,
    image_token_id: int,
    image_tokens_per_image: int,
    max_length: int | None = None,
) -> dict[str, torch.Tensor]:
    """Tokenize a validated row.

    Args:
        image_token_id: what each position of an image is filled with.
        image_tokens_per_image: positions an image takes.
        max_length: cut there; None keeps everything.

    Returns:
        `input_ids` and `labels`, LongTensors (T,). `labels` equals `input_ids` at the tokens of the answers, their ends
        of turn included, and is `IGNORE_INDEX` elsewhere.

    Raises:
        RowTooLong: `max_length` falls before the end of the last image, or before the first supervised token.
        DataError: image tags and images differ in number, or there is nothing to supervise.
    """
    rendered = template.render(row_turns(row))
    tags, images = rendered.text.count(IMAGE_TOKEN), len(row_images(row))
    if tags != images:
        raise DataError(f"row {row.get('id')!r}: {tags} {IMAGE_TOKEN} tags for {images} images; they must be as many")
    image = [image_token_id] * image_tokens_per_image
    ids, supervised = _encode(rendered, template, tokenizer, image)
    if not any(supervised):
        raise DataError(f"row {row.get('id')!r}: no token of it would be supervised; its answers must not be empty")
    if max_length is not None and len(ids) > max_length:
        if image_token_id in ids[max_length:]:
            raise RowTooLong(f"row {row.get('id')!r}: {len(ids)} tokens, and an image ends after token {max_length}")
        if not any(supervised[:max_length]):
            raise RowTooLong(f"row {row.get('id')!r}: {len(ids)} tokens, and no answer starts before {max_length}")
        ids, supervised = ids[:max_length], supervised[:max_length]
    input_ids = torch.tensor(ids, dtype=torch.long)
    labels = torch.where(torch.tensor(supervised), input_ids, IGNORE_INDEX)
    return {"input_ids": input_ids, "labels": labels}


def tokenize_prompt(
    turns: Sequence[Turn],
    template: Template,
    tokenizer: Any,
    *,
    image_token_id: int,
    image_tokens_per_image: int,
) -> torch.Tensor:
    """Tokenize turns that end with the human's, up to where the assistant starts to write.

    The texts are taken as they are; pass them through `place_images` first for the form that training rows have.

    Returns:
        `input_ids`, LongTensor (T,).
    """
    rendered = template.render(turns, generation_prompt=True)
    image = [image_token_id] * image_tokens_per_image
    ids, _ = _encode(Rendered(rendered.text), template, tokenizer, image)
    return torch.tensor(ids, dtype=torch.long)


def _encode(rendered: Rendered, template: Template, tokenizer: Any, image: list[int]) -> tuple[list[int], list[bool]]:
    """Token ids of the whole text, and for each whether it is the assistant's."""
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            f"{type(tokenizer).__name__} can't say which characters a token stands for, so labels can't be derived; "
            f"use a tokenizer with a tokenizer.json (a 'fast' one)"
        )
    ids = start_of_text(tokenizer) if template.adds_bos else []
    supervised = [False] * len(ids)
    for number, (piece, spans) in enumerate(pieces_of(rendered)):
        if number:
            ids += image
            supervised += [False] * len(image)
        for token, within in encode_piece(piece, spans, tokenizer):
            ids.append(token)
            supervised.append(within)
    return ids, supervised


def pieces_of(rendered: Rendered) -> list[Piece]:
    """The texts between the image tags, each with the spans that end in it or behind it, counted from its start."""
    pieces: list[Piece] = []
    start = 0
    for piece in rendered.text.split(IMAGE_TOKEN):
        spans = [(max(begin - start, 0), end - start) for begin, end in rendered.assistant_spans if end > start]
        pieces.append((piece, spans))
        start += len(piece) + len(IMAGE_TOKEN)
    return pieces


def encode_piece(
    piece: str, spans: Sequence[tuple[int, int]], tokenizer: Any, opening: bool = True
) -> list[tuple[int, bool]]:
    """The tokens of a text without image tags.

    Args:
        piece: the text.
        spans: the characters that the assistant wrote. No token has characters on both sides of a span's start.
        tokenizer: a fast tokenizer.
        opening: whether it is a text of its own, and not the rest of one.

    Returns:
        of each token its id, and whether it is the assistant's.
    """
    ids, offsets = _tokens_of(piece, tokenizer, opening)
    for start, _ in spans:
        # One token over both sides (a header's newline and an answer's first space, say): generation starts after the
        # header, so the header's tokens must be the same here as there.
        if any(begin < start < end for begin, end in offsets):
            before = encode_piece(piece[:start], spans, tokenizer, opening)
            after = [(begin - start, end - start) for begin, end in spans if end > start]
            return before + encode_piece(piece[start:], after, tokenizer, opening=False)
    within = [any(begin < stop and start < end for start, stop in spans) for begin, end in offsets]
    return list(zip(ids, within, strict=True))


def _tokens_of(piece: str, tokenizer: Any, opening: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of a text, and the characters each stands for."""
    lead = lead_of(piece, tokenizer) if opening else ""
    encoded = tokenizer(
        lead + piece, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    shift = len(lead)
    offsets = [(max(begin - shift, 0), max(end - shift, 0)) for begin, end in encoded["offset_mapping"]]
    return encoded["input_ids"], extents(offsets)


def lead_of(piece: str, tokenizer: Any) -> str:
    """What has to be put in front of a text of its own before it is tokenized: "▁", or nothing.

    A Metaspace puts "▁" there unless the text starts with a space. Sentencepiece puts it there always.
    """
    return _SPACE if piece.startswith((" ", _SPACE)) and _is_llama_metaspace(tokenizer) else ""


def _is_llama_metaspace(tokenizer: Any) -> bool:
    """Whether this is Llama's tokenizer as transformers 5 makes it. Other tokenizers join spaces on purpose."""
    core: Any = getattr(tokenizer, "backend_tokenizer", None)
    cut: Any = getattr(core, "pre_tokenizer", None)
    return isinstance(cut, Metaspace) and core.normalizer is None and not cut.split and cut.prepend_scheme != "never"


def start_of_text(tokenizer: Any) -> list[int]:
    """The token ids that the tokenizer itself puts in front of a text: its start-of-text token, or none."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else []


def extents(offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The characters each token stands for, none of them empty.

    All byte tokens of one character have its offsets. Some tokenizers leave a token's leading space out of its offsets:
    that gap is added to the token again. A token that stands for no character (a "▁" put in front of a text) counts as
    the character at its position.
    """
    result = []
    covered = 0
    for begin, end in offsets:
        begin = min(begin, covered)
        covered = max(covered, end)
        result.append((begin, max(end, begin + 1)))
    return result
