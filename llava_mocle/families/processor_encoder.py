"""Samples, prompts and batches of models that have a processor: what an image becomes depends on its size."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from llava_mocle.data.collator import Collator
from llava_mocle.data.conversation import (
    ASSISTANT,
    IMAGE_TOKEN,
    Rendered,
    Template,
    Turn,
    row_images,
    row_turns,
)
from llava_mocle.data.encoder import Candidates, Encoder, ImageSource, Sample
from llava_mocle.data.image_limits import ImageUnreadable, check_shape
from llava_mocle.data.images import image_size, load_image, mean_colour, pad_to_square, source_name
from llava_mocle.data.measure import length_within
from llava_mocle.data.measure_cache import settings_key
from llava_mocle.data.token_counts import count_tokens
from llava_mocle.data.tokenize import IGNORE_INDEX, RowTooLong, encode_piece, start_of_text
from llava_mocle.errors import DataError
from llava_mocle.families.processor_types import ModelKind

# What a processor makes of a text. All that it returns besides is of the images.
_OF_TEXT = frozenset(
    {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels", "text_replacement_offsets"}
)
# Height and width that stand for an image which cannot be read: the row is met as one when it is loaded.
_USUAL_SIZE = (448, 448)

Tokens = list[tuple[int, bool]]
# A text, the spans of it that the assistant wrote, and the part of it that ends with the last image.
Filled = tuple[str, Sequence[tuple[int, int]], str]


class ProcessorEncoder(Encoder):
    """What a model with a processor of transformers' takes.

    The processor says what stands for an image in the text, and makes its tensors. The text is tokenized here, so that
    it is known which tokens are the assistant's; the ids are those of the processor's own `apply_chat_template`.

    Args:
        processor: one of transformers'.
        kind: what is known of the model.
        template: renders one placeholder of the processor's for each image.
        max_length: longest sample in tokens; None for no limit.
        aspect_ratio: "square" hands images to the processor as they are; "pad" squares them first.
    """

    sees_sizes = True

    def __init__(
        self,
        processor: Any,
        kind: ModelKind,
        template: Template,
        *,
        max_length: int | None = None,
        aspect_ratio: str = "square",
    ) -> None:
        self.processor = processor
        self.kind = kind
        self.template = template
        self.max_length = max_length
        self.aspect_ratio = aspect_ratio

    # ------ the interface

    def encode(self, row: Mapping[str, Any], images: Sequence[Image.Image], names: Sequence[str | Path]) -> Sample:
        """`input_ids` (T,), `labels` (T,), the tokens' types (T,) if the model takes them, and the image tensors."""
        rendered = self._rendered(row)
        replacements, inputs = self._processed(images, names)
        tokens = self._within(row, *self._filled(rendered, replacements))
        ids = torch.tensor([token for token, _ in tokens], dtype=torch.long)
        supervised = torch.tensor([own for _, own in tokens])
        labels = torch.where(supervised, ids, IGNORE_INDEX)
        return {"input_ids": ids, "labels": labels} | self._types(tokens) | inputs

    def measure(self, rows: Sequence[Mapping[str, Any]], images: Sequence[Sequence[str]]) -> list[int]:
        """The sizes of images are read from their files. One that cannot be read counts as `_USUAL_SIZE`."""
        sizes = [[_size_of(file) for file in files] for files in images]
        texts = [
            self._filled(self._rendered(row), self._replacements(of_row))
            for row, of_row in zip(rows, sizes, strict=True)
        ]
        counts = count_tokens([(text, spans) for text, spans, _ in texts], self.processor.tokenizer)
        lengths = []
        for row, text, count in zip(rows, texts, counts, strict=True):
            counted = None
            if count is not None and count.unsupervised is not None:
                counted = len(self._opening(text[0])) + count.tokens
            lengths.append(length_within(self.max_length, counted, partial(self._within, row, *text)))
        return lengths

    def measure_key(self, image_folder: str) -> str | None:
        processor = self.processor.to_json_string()
        folder = str(Path(image_folder or ".").absolute())
        return settings_key(
            self.template, self.processor.tokenizer, self.max_length, self.aspect_ratio, processor, folder
        )

    def prompt(self, turns: Sequence[Turn], images: Sequence[ImageSource]) -> Sample:
        replacements, inputs = self._loaded(images)
        tokens = self._tokens(self._prompt(turns, len(images)), replacements)
        ids = torch.tensor([token for token, _ in tokens], dtype=torch.long)
        return {"input_ids": ids} | self._types(tokens) | inputs

    def prompt_length(self, turns: Sequence[Turn], images: Sequence[ImageSource]) -> int:
        replacements = self._replacements([_size_of(image) for image in images])
        return len(self._tokens(self._prompt(turns, len(images)), replacements))

    def candidates(self, turns: Sequence[Turn], images: Sequence[ImageSource], answers: Sequence[str]) -> Candidates:
        """`inputs` has the types of the first row's tokens: cut them where its prefix ends."""
        replacements, inputs = self._loaded(images)
        made = [self._tokens(rendered, replacements) for rendered in self._answered(turns, answers, len(images))]
        rows = []
        for tokens in made:
            ids = torch.tensor([token for token, _ in tokens], dtype=torch.long)
            rows.append(
                {"input_ids": ids, "labels": torch.where(torch.tensor([o for _, o in tokens]), ids, IGNORE_INDEX)}
            )
        types = {name: values[None] for name, values in self._types(made[0]).items()}
        return Candidates(rows, types | inputs)

    def candidate_length(self, turns: Sequence[Turn], images: Sequence[ImageSource], answers: Sequence[str]) -> int:
        replacements = self._replacements([_size_of(image) for image in images])
        return max(
            len(self._tokens(rendered, replacements)) for rendered in self._answered(turns, answers, len(images))
        )

    def collator(self, *, pad_token_id: int | None = None, left: bool = False) -> Collator:
        padding = self.processor.tokenizer.pad_token_id if pad_token_id is None else pad_token_id
        types = {} if self.kind.token_types is None else {self.kind.token_types: 0}
        return Collator(padding, left=left, sequences=types)

    def images(self, images: Sequence[Image.Image]) -> Sample:
        """The tensors that the model takes of images (RGB) of one sample."""
        return self._processed(images, ["an image"] * len(images))[1]

    # ------ text

    def _rendered(self, row: Mapping[str, Any]) -> Rendered:
        """The text of a row, its images checked against its tags."""
        turns, images = row_turns(row), len(row_images(row))
        return self._checked(turns, images, self.template.render(turns), f"row {row.get('id')!r}")

    def _prompt(self, turns: Sequence[Turn], images: int) -> Rendered:
        rendered = self.template.render(turns, generation_prompt=True)
        return self._checked(turns, images, Rendered(rendered.text), f"prompt {turns[-1].text[:60]!r}")

    def _answered(self, turns: Sequence[Turn], answers: Sequence[str], images: int) -> list[Rendered]:
        """The same turns under each answer."""
        name = f"prompt {turns[-1].text[:60]!r}"
        every = [[*turns, Turn(ASSISTANT, answer)] for answer in answers]
        return [self._checked(answered, images, self.template.render(answered), name) for answered in every]

    def _checked(self, turns: Sequence[Turn], images: int, rendered: Rendered, name: str) -> Rendered:
        tags = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
        if tags != images:
            raise DataError(f"{name}: {tags} {IMAGE_TOKEN} tags for {images} images; they must be as many")
        if not images and not self.kind.takes_text_only:
            raise DataError(f"{name}: has no image, and {self.kind.name} reads no text without one; leave it out")
        found = rendered.text.count(self.processor.image_token)
        if found != images:
            raise DataError(
                f"{name}: {found} times {self.processor.image_token} in its text under the template, for {images} "
                "images; the text must not hold it itself, and the chat template must write it for every image"
            )
        return rendered

    def _filled(self, rendered: Rendered, replacements: Sequence[str]) -> Filled:
        """The text with what stands for its images, the assistant's spans in it, and its part up to the last image."""
        pieces = rendered.text.split(self.processor.image_token)
        text, seen, gained = pieces[0], len(pieces[0]), [(0, 0)]
        images_end = ""
        for replacement, piece in zip(replacements, pieces[1:], strict=True):
            text += replacement
            images_end = text
            seen += len(self.processor.image_token)
            gained.append((seen, len(text) - seen))
            text, seen = text + piece, seen + len(piece)

        def moved(position: int) -> int:
            return position + [more for start, more in gained if start <= position][-1]

        return text, [(moved(begin), moved(end)) for begin, end in rendered.assistant_spans], images_end

    def _tokens(self, rendered: Rendered, replacements: Sequence[str]) -> Tokens:
        text, spans, _ = self._filled(rendered, replacements)
        return self._all_tokens(text, spans)

    def _all_tokens(self, text: str, spans: Sequence[tuple[int, int]]) -> Tokens:
        return [*self._opening(text), *encode_piece(text, spans, self.processor.tokenizer)]

    def _opening(self, text: str) -> Tokens:
        """The start of text that the tokenizer puts in front, unless the template has written it."""
        tokenizer = self.processor.tokenizer
        if tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token):
            return []
        return [(token, False) for token in self._start]

    @cached_property
    def _start(self) -> list[int]:
        return start_of_text(self.processor.tokenizer)

    def _within(self, row: Mapping[str, Any], text: str, spans: Sequence[tuple[int, int]], images_end: str) -> Tokens:
        """At most `max_length` tokens of a row's text.

        Raises:
            RowTooLong: it falls before the end of the last image, or before the first supervised token.
            DataError: there is nothing to supervise.
        """
        tokens = self._all_tokens(text, spans)
        name, limit = f"row {row.get('id')!r}", self.max_length
        if not any(own for _, own in tokens):
            raise DataError(f"{name}: no token of it would be supervised; its answers must not be empty")
        if limit is None or len(tokens) <= limit:
            return tokens
        if len(self._opening(images_end)) + len(encode_piece(images_end, (), self.processor.tokenizer)) > limit:
            raise RowTooLong(f"{name}: {len(tokens)} tokens, and an image ends after token {limit}")
        if not any(own for _, own in tokens[:limit]):
            raise RowTooLong(f"{name}: {len(tokens)} tokens, and no answer starts before {limit}")
        return tokens[:limit]

    def _types(self, tokens: Tokens) -> Sample:
        """The types of tokens as the model takes them."""
        if self.kind.token_types is None:
            return {}
        if self.kind.chats:
            types = self.processor.create_mm_token_type_ids([[token for token, _ in tokens]])[0]
        else:
            # A question is read as a whole, and what follows from left to right: 0 up to the first answer, then 1.
            first = next((place for place, (_, own) in enumerate(tokens) if own), len(tokens))
            types = [int(place >= first) for place in range(len(tokens))]
        return {self.kind.token_types: torch.tensor(types, dtype=torch.long)}

    # ------ images

    def _loaded(self, images: Sequence[ImageSource]) -> tuple[list[str], Sample]:
        return self._processed([load_image(image) for image in images], [source_name(image) for image in images])

    def _processed(self, images: Sequence[Image.Image], names: Sequence[str | Path]) -> tuple[list[str], Sample]:
        """What stands for each image in the text, and the tensors that the model takes."""
        if not images:
            return [], {}
        if self.aspect_ratio == "pad":
            for image, name in zip(images, names, strict=True):
                check_shape(image.size, "pad", None, name)
            images = [pad_to_square(image, mean_colour(self.processor.image_processor)) for image in images]
        try:
            made = self.processor(
                text=[self.processor.image_token * len(images)],
                images=[list(images)],
                return_text_replacement_offsets=True,
                return_tensors="pt",
            )
        except ValueError as error:
            raise DataError(f"{', '.join(map(str, names))}: the image processor refuses: {error}") from error
        replacements = [found["replacement"] for found in made["text_replacement_offsets"][0]]
        return replacements, {name: value for name, value in made.items() if name not in _OF_TEXT}

    def _replacements(self, sizes: Sequence[tuple[int, int]]) -> list[str]:
        """What stands for images of these heights and widths in the text."""
        if not sizes:
            return []
        if self.aspect_ratio == "pad":
            sizes = [(max(size), max(size)) for size in sizes]
        try:
            read = self.kind.placeholders(self.processor, sizes)
            if read is not None:
                return [self.processor.replace_image_token(read, index) for index in range(len(sizes))]
        except ValueError as error:
            listed = ", ".join(f"{width} x {height}" for height, width in sizes)
            raise DataError(f"the image processor refuses an image of {listed} pixels: {error}") from error
        blanks = [Image.new("RGB", (width, height)) for height, width in sizes]
        return self._processed(blanks, ["an image"] * len(blanks))[0]


def _size_of(source: ImageSource) -> tuple[int, int]:
    """Height and width in pixels."""
    if isinstance(source, Image.Image):
        return source.height, source.width
    try:
        width, height = image_size(Path(source))
    except ImageUnreadable:
        return _USUAL_SIZE
    return height, width
