"""What the data room needs of a model: how rows become samples, and samples a batch."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from llava_mocle.data.conversation import Template, Turn

ImageSource = str | os.PathLike[str] | Image.Image
Sample = dict[str, Any]
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Candidates:
    """Candidate answers of one question.

    Attributes:
        rows: of each candidate `input_ids` and `labels` (T,). They differ in the answer only.
        inputs: what else the model takes, for the one question: a batch of 1.
    """

    rows: Sequence[Mapping[str, Tensor]]
    inputs: Mapping[str, Tensor]


class Encoder(ABC):
    """Makes samples of rows for one model under one template. It holds no weights, and goes to loader workers.

    Attributes:
        template: how turns become text.
        max_length: the longest sample in tokens; None: no limit.
        sees_sizes: whether the tokens of an image depend on its size. `measure` then reads the headers of images.
        takes_images: whether there is an image processor.
    """

    template: Template
    max_length: int | None = None
    sees_sizes: bool = False
    takes_images: bool = True

    @abstractmethod
    def encode(self, row: Mapping[str, Any], images: Sequence[Image.Image], names: Sequence[str | Path]) -> Sample:
        """The sample of a validated row.

        Args:
            images: its images, RGB, in the order of the row.
            names: their files, for messages.

        Returns:
            `input_ids` and `labels`, LongTensors (T,), labels -100 where nothing is supervised; and whatever the model
            takes of the images.

        Raises:
            RowTooLong: `max_length` would cut an image or every answer off.
            DataError: the row is not one that this model can take.
        """

    @abstractmethod
    def measure(self, rows: Sequence[Mapping[str, Any]], images: Sequence[Sequence[str]]) -> list[int]:
        """The length of each row's `input_ids` as `encode` makes them, or `measure.DROPPED` if `max_length` would spoil
        the row. No image is decoded.

        Args:
            images: of each row, the files of its images.

        Raises:
            DataError: a row is not one that this model can take; the message does not say which.
        """

    @abstractmethod
    def measure_key(self, image_folder: str) -> str | None:
        """A key of everything that decides what `measure` gives besides the row itself; None if it is not known."""

    @abstractmethod
    def prompt(self, turns: Sequence[Turn], images: Sequence[ImageSource]) -> Sample:
        """What the model takes of turns that end with the human's, up to where the assistant starts to write.

        Raises:
            DataError: as `encode`; or an image cannot be read.
        """

    @abstractmethod
    def prompt_length(self, turns: Sequence[Turn], images: Sequence[ImageSource]) -> int:
        """How many tokens that is, images included; no more of an image is read than its size."""

    @abstractmethod
    def candidates(self, turns: Sequence[Turn], images: Sequence[ImageSource], answers: Sequence[str]) -> Candidates:
        """The same question with several answers, to be scored.

        Raises:
            DataError: as `prompt`.
        """

    @abstractmethod
    def candidate_length(self, turns: Sequence[Turn], images: Sequence[ImageSource], answers: Sequence[str]) -> int:
        """Tokens of the longest of them."""

    @abstractmethod
    def collator(
        self, *, pad_token_id: int | None = None, left: bool = False
    ) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
        """What makes a batch of samples.

        Args:
            pad_token_id: default: the tokenizer's.
            left: pad on the left, for `generate`.

        Raises:
            ConfigError: there is no padding token.
        """
