"""Samples of rows where every image takes the same number of places and is one tensor of pixels, as in LLaVA."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from llava_mocle.data.collator import Collator
from llava_mocle.data.conversation import ASSISTANT, IMAGE_TOKEN, Template, Turn, row_turns
from llava_mocle.data.encoder import Candidates, Encoder, ImageSource, Sample
from llava_mocle.data.images import load_image, process_image, source_name
from llava_mocle.data.measure import length_within
from llava_mocle.data.measure_cache import settings_key
from llava_mocle.data.mixture import Mixture
from llava_mocle.data.row_dataset import POLICIES, RowDataset
from llava_mocle.data.templates import get_template
from llava_mocle.data.token_counts import TokenCount, count_tokens
from llava_mocle.data.tokenize import pieces_of, start_of_text, tokenize_prompt, tokenize_row

__all__ = ["POLICIES", "FixedImageEncoder", "LlavaDataset", "LlavaEncoder"]


class FixedImageEncoder(Encoder):
    """The part of an encoder that is the same where every image takes as many places and is one tensor of pixels.

    Args:
        tokenizer: a fast tokenizer.
        image_processor: one of transformers'; None where no row has an image.
        template: how turns become text.
        image_token_id: what each position of an image holds in `input_ids`.
        image_tokens_per_image: positions an image takes.
        max_length: longest sample in tokens; None for no limit.
        aspect_ratio: "pad" or "square", see `process_image`.
    """

    def __init__(
        self,
        tokenizer: Any,
        image_processor: Any,
        template: Template,
        *,
        image_token_id: int,
        image_tokens_per_image: int,
        max_length: int | None = None,
        aspect_ratio: str = "pad",
    ) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.template = template
        self.image_token_id = image_token_id
        self.image_tokens_per_image = image_tokens_per_image
        self.max_length = max_length
        self.aspect_ratio = aspect_ratio
        self.takes_images = image_processor is not None

    @cached_property
    def _start(self) -> list[int]:
        """The start-of-text token, or none."""
        return start_of_text(self.tokenizer) if self.template.adds_bos else []

    def _pictures(self, images: Sequence[ImageSource]) -> Sample:
        return self._pixels([load_image(image) for image in images], [source_name(image) for image in images])

    def _pixels(self, images: Sequence[Image.Image], names: Sequence[str | Path]) -> Sample:
        """`pixel_values` (n, 3, H, W); nothing where there are no images."""
        pixels = [
            process_image(image, self.image_processor, self.aspect_ratio, name)
            for image, name in zip(images, names, strict=True)
        ]
        return {"pixel_values": torch.stack(pixels)} if pixels else {}


class LlavaEncoder(FixedImageEncoder):
    """What `LlavaForConditionalGeneration` takes."""

    def encode(self, row: Mapping[str, Any], images: Sequence[Image.Image], names: Sequence[str | Path]) -> Sample:
        """`input_ids` (T,), `labels` (T,), and with images `pixel_values` (n, 3, H, W), float."""
        return self._tokenize(row) | self._pixels(images, names)

    def measure(self, rows: Sequence[Mapping[str, Any]], images: Sequence[Sequence[str]]) -> list[int]:
        pieces = [pieces_of(self.template.render(row_turns(row))) for row in rows]
        counts = iter(count_tokens([piece for of_row in pieces for piece in of_row], self.tokenizer))
        lengths = []
        for row, of_row, files in zip(rows, pieces, images, strict=True):
            counted = self._counted([next(counts) for _ in of_row], len(files))
            lengths.append(length_within(self.max_length, counted, partial(self._ids, row)))
        return lengths

    def measure_key(self, image_folder: str) -> str | None:
        limits = (self.image_token_id, self.image_tokens_per_image, self.max_length)
        return settings_key(self.template, self.tokenizer, *limits)

    def prompt(self, turns: Sequence[Turn], images: Sequence[ImageSource]) -> Sample:
        return {"input_ids": self._prompt_ids(turns)} | self._pictures(images)

    def prompt_length(self, turns: Sequence[Turn], images: Sequence[ImageSource]) -> int:
        return len(self._prompt_ids(turns))

    def candidates(self, turns: Sequence[Turn], images: Sequence[ImageSource], answers: Sequence[str]) -> Candidates:
        return Candidates(self._candidate_rows(turns, answers), self._pictures(images))

    def candidate_length(self, turns: Sequence[Turn], images: Sequence[ImageSource], answers: Sequence[str]) -> int:
        return max(len(row["input_ids"]) for row in self._candidate_rows(turns, answers))

    def collator(self, *, pad_token_id: int | None = None, left: bool = False) -> Collator:
        return Collator(self.tokenizer.pad_token_id if pad_token_id is None else pad_token_id, left=left)

    def _tokenize(self, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        return tokenize_row(
            row,
            self.template,
            self.tokenizer,
            image_token_id=self.image_token_id,
            image_tokens_per_image=self.image_tokens_per_image,
            max_length=self.max_length,
        )

    def _ids(self, row: Mapping[str, Any]) -> torch.Tensor:
        return self._tokenize(row)["input_ids"]

    def _counted(self, counts: Sequence[TokenCount | None], images: int) -> int | None:
        """The tokens of a row whose texts have these; None where only tokenizing the row tells, or what is wrong."""
        texts = [count for count in counts if count is not None]
        supervised = any(count.unsupervised is not None for count in texts)
        if len(texts) < len(counts) or not supervised or len(counts) - 1 != images:
            return None
        return len(self._start) + images * self.image_tokens_per_image + sum(count.tokens for count in texts)

    def _prompt_ids(self, turns: Sequence[Turn]) -> torch.Tensor:
        return tokenize_prompt(
            turns,
            self.template,
            self.tokenizer,
            image_token_id=self.image_token_id,
            image_tokens_per_image=self.image_tokens_per_image,
        )

    def _candidate_rows(self, turns: Sequence[Turn], answers: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        asked = [{"from": turn.role, "value": turn.text} for turn in turns]
        images = [""] * sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
        return [
            self._tokenize({"image": images, "conversations": [*asked, {"from": ASSISTANT, "value": answer}]})
            for answer in answers
        ]


class LlavaDataset(RowDataset):
    """Samples of a mixture for LLaVA, from its tokenizer and image processor.

    Args:
        mixture, cluster_ids, corrupt_images: as `RowDataset`.
        template: a template, or the name of one.
        tokenizer, image_processor, options: as `FixedImageEncoder`.

    Raises:
        ConfigError: as `RowDataset`, or an unknown template.
        DataError: as `RowDataset`.
    """

    def __init__(
        self,
        mixture: Mixture,
        tokenizer: Any,
        image_processor: Any,
        template: Template | str,
        cluster_ids: Mapping[str, Any] | None = None,
        *,
        corrupt_images: str = "error",
        **options: Any,
    ) -> None:
        style = get_template(template, tokenizer) if isinstance(template, str) else template
        encoder = LlavaEncoder(tokenizer, image_processor, style, **options)
        super().__init__(mixture, encoder, cluster_ids, corrupt_images=corrupt_images)
