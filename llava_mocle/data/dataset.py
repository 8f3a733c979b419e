"""The lazy torch dataset: joins rows, images and cluster ids into samples."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from llava_mocle.data.conversation import IMAGE_TOKEN, Template, row_images, row_turns
from llava_mocle.data.images import ImageUnreadable, image_path, load_image, process_image
from llava_mocle.data.mixture import Mixture
from llava_mocle.data.templates import get_template
from llava_mocle.data.tokenize import RowTooLong, tokenize_row
from llava_mocle.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

POLICIES = ("error", "skip")
# A token is rarely longer than this many bytes on average; only the order of the estimates matters.
_BYTES_A_TOKEN = 4
# Start-of-text token, the "▁" of the first piece, the first supervised token.
_SPARE = 4


class LlavaDataset(Dataset):
    """Samples of a mixture.

    Rows that `max_length` would leave without one of their images, or without anything to learn, are found and left
    out when the dataset is made, so `len()` is what an epoch really sees.

    Args:
        mixture: rows and repeats.
        tokenizer: a fast tokenizer.
        image_processor: one of transformers'; None when no row has an image.
        template: a template, or the name of one.
        cluster_ids: dataset name -> cluster of each of its rows; None for samples without `cluster_id`.
        image_token_id: what each position of an image holds in `input_ids`.
        image_tokens_per_image: positions an image takes.
        max_length: longest sample in tokens; None for no limit.
        aspect_ratio: "pad" or "square", see `process_image`.
        corrupt_images: what an unreadable image does when it is met: "error" raises; "skip" gives the next sample whose
            images can be read instead, and counts the row.

    Attributes:
        lengths: an estimate of each sample's tokens, for the sampler.
        has_image: for each sample, whether it has one.
        dropped: rows left out for their length, each counted once whatever its repeats.

    Raises:
        ConfigError: unknown policy or template, or images without a processor.
        DataError: cluster ids that don't fit the rows, a row without anything to supervise, no row left.
    """

    def __init__(
        self,
        mixture: Mixture,
        tokenizer: Any,
        image_processor: Any,
        template: Template | str,
        cluster_ids: Mapping[str, Any] | None = None,
        *,
        image_token_id: int,
        image_tokens_per_image: int,
        max_length: int | None = None,
        aspect_ratio: str = "pad",
        corrupt_images: str = "error",
    ) -> None:
        if corrupt_images not in POLICIES:
            raise ConfigError(f"corrupt_images is {corrupt_images!r}, expected one of {', '.join(POLICIES)}")
        self.mixture = mixture
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.template = get_template(template, tokenizer) if isinstance(template, str) else template
        self.cluster_ids = None if cluster_ids is None else _checked_ids(cluster_ids, mixture)
        self.image_token_id = image_token_id
        self.image_tokens_per_image = image_tokens_per_image
        self.max_length = max_length
        self.aspect_ratio = aspect_ratio
        self.corrupt_images = corrupt_images
        self._choose_samples()
        if any(self.has_image) and image_processor is None:
            raise ConfigError("the rows have images, but there is no image processor; load one with the model")
        # One flag a sample, in shared memory: loader workers set it, the main process counts.
        self._unreadable = torch.zeros(len(self), dtype=torch.uint8).share_memory_()

    def _choose_samples(self) -> None:
        """Walk over all rows once: which are kept, how long they are about, which have images."""
        measures = {
            name: [self._measure(name, index) for index in range(len(self.mixture.rows[name]))]
            for name in self.mixture.names
        }
        self._samples: list[tuple[int, int]] = []
        self.lengths: list[int] = []
        self.has_image: list[bool] = []
        for index in range(len(self.mixture)):
            dataset, row = self.mixture.locate(index)
            length = measures[self.mixture.names[dataset]][row]
            if length is not None:
                self._samples.append((dataset, row))
                self.lengths.append(length)
                self.has_image.append(bool(row_images(self._row(dataset, row))))
        self.dropped = sum(length is None for of_dataset in measures.values() for length in of_dataset)
        if self.dropped:
            logger.warning(
                "left out %d of %d rows: with max_length %s an image or every answer would be cut off",
                self.dropped,
                sum(map(len, measures.values())),
                self.max_length,
            )
        if not self._samples:
            raise DataError(f"no row is left: with max_length {self.max_length} all would be cut; give a larger one")

    def _measure(self, name: str, index: int) -> int | None:
        """A row's estimated tokens, or None if `max_length` would spoil it."""
        row = self.mixture.rows[name][index]
        with self._locating(name, index):
            rendered = self.template.render(row_turns(row))
            tags = rendered.text.count(IMAGE_TOKEN)
            images = tags * self.image_tokens_per_image
            if self.max_length is not None:
                # No token is shorter than a byte, so most rows need no tokenizing here: all that must not be cut is
                # sure to fit. What each piece may start with by itself is paid for by the tags' own bytes.
                needed = max(
                    rendered.text.rfind(IMAGE_TOKEN) + len(IMAGE_TOKEN) if tags else 0, rendered.assistant_spans[0][0]
                )
                if len(rendered.text[:needed].encode()) + images + _SPARE >= self.max_length:
                    try:
                        self._tokenize(row)
                    except RowTooLong:
                        return None
            return images + len(rendered.text.encode()) // _BYTES_A_TOKEN

    def _tokenize(self, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        return tokenize_row(
            row,
            self.template,
            self.tokenizer,
            image_token_id=self.image_token_id,
            image_tokens_per_image=self.image_tokens_per_image,
            max_length=self.max_length,
        )

    @contextmanager
    def _locating(self, name: str, index: int) -> Iterator[None]:
        """Put file and row in front of a data error's message."""
        try:
            yield
        except RowTooLong:
            raise
        except DataError as error:
            path = self.mixture.specs[self.mixture.names.index(name)].data_path
            row_id = self.mixture.rows[name][index].get("id")
            raise type(error)(f"{path}: row {index} (id {row_id!r}): {error}") from error

    def _row(self, dataset: int, row: int) -> dict[str, Any]:
        return self.mixture.rows[self.mixture.names[dataset]][row]

    @property
    def skipped_images(self) -> int:
        """Rows met so far whose images could not be read, under `corrupt_images="skip"`."""
        return len({self._samples[index] for index in torch.nonzero(self._unreadable).flatten().tolist()})

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample.

        Returns:
            input_ids (T,) long; labels (T,) long; pixel_values (n, 3, H, W) float, absent without an image;
            cluster_id int, absent without cluster ids; dataset_id int.

        Raises:
            ImageUnreadable: an image can't be read, and the policy is "error" or no later sample is any better.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        for step in range(len(self)):
            place = (index + step) % len(self)
            try:
                return self._load(*self._samples[place])
            except ImageUnreadable as error:
                if self.corrupt_images == "error":
                    raise
                if not self._unreadable[place]:
                    self._unreadable[place] = 1
                    logger.warning("skipping a row, the next one takes its place: %s", error)
        raise ImageUnreadable("none of the samples has images that can be read; run `llava-mocle data check`")

    def _load(self, dataset: int, row_index: int) -> dict[str, Any]:
        spec = self.mixture.specs[dataset]
        row = self._row(dataset, row_index)
        with self._locating(spec.name, row_index):
            images = [load_image(image_path(spec.image_folder, path)) for path in row_images(row)]
            sample: dict[str, Any] = self._tokenize(row)
        if images:
            pictures = [process_image(image, self.image_processor, self.aspect_ratio) for image in images]
            sample["pixel_values"] = torch.stack(pictures)
        if self.cluster_ids is not None:
            sample["cluster_id"] = int(self.cluster_ids[spec.name][row_index])
        sample["dataset_id"] = dataset
        return sample


def _checked_ids(cluster_ids: Mapping[str, Any], mixture: Mixture) -> dict[str, np.ndarray]:
    """Cluster ids as int arrays, one for each row of every dataset."""
    checked = {}
    for name in mixture.names:
        if name not in cluster_ids:
            given = ", ".join(cluster_ids) or "none"
            raise DataError(f"no cluster ids for dataset {name!r} (given: {given}); run `llava-mocle cluster` on all")
        ids = np.asarray(cluster_ids[name])
        rows = len(mixture.rows[name])
        if ids.shape != (rows,) or not (np.issubdtype(ids.dtype, np.integer) or rows == 0):
            raise DataError(
                f"dataset {name!r}: cluster ids are {ids.dtype} of shape {ids.shape}, expected integers of shape "
                f"({rows},), one for each row; run `llava-mocle cluster` again"
            )
        if rows and ids.min() < 0:
            raise DataError(f"dataset {name!r}: row {int(ids.argmin())} has cluster id {ids.min()}, expected 0 or more")
        checked[name] = ids
    return checked
