"""The lazy torch dataset: joins rows, images and cluster ids into samples."""

import logging
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from llava_mocle.data.conversation import row_images
from llava_mocle.data.encoder import Encoder
from llava_mocle.data.image_limits import ImageUnreadable
from llava_mocle.data.images import image_path, load_image
from llava_mocle.data.instruction_tokens import INSTRUCTION_IDS, InstructionTokens
from llava_mocle.data.measure import DROPPED, measure_rows
from llava_mocle.data.measure_cache import remembered
from llava_mocle.data.mixture import DatasetSpec, Mixture
from llava_mocle.data.row_table import RowTable
from llava_mocle.data.tokenize import IGNORE_INDEX
from llava_mocle.errors import ConfigError, DataError, UserError

logger = logging.getLogger(__name__)

POLICIES = ("error", "skip")


class RowDataset(Dataset):
    """Samples of a mixture, as one model takes them.

    Rows that the encoder's `max_length` would leave without one of their images, or without anything to learn, are
    found and left out when the dataset is made, so `len()` is what an epoch really sees.

    Args:
        mixture: rows and repeats.
        encoder: makes samples of rows.
        cluster_ids: dataset name -> cluster of each of its rows; None for samples without `cluster_id`.
        instructions: what tokenizes the routing text of every row; None for samples without `instruction_ids`.
        corrupt_images: what an unreadable image does when it is met: "error" raises; "skip" gives the next sample whose
            images can be read instead, and counts the row.

    Attributes:
        lengths: of each sample's `input_ids`, for the sampler; int64 (samples,).
        has_image: for each sample, whether it has one; bool (samples,).
        dropped: rows left out for their length, each counted once whatever its repeats.

    Raises:
        ConfigError: unknown policy, or images without a processor.
        DataError: cluster ids that don't fit the rows, a row without anything to supervise, no row left.
    """

    def __init__(
        self,
        mixture: Mixture,
        encoder: Encoder,
        cluster_ids: Mapping[str, Any] | None = None,
        *,
        corrupt_images: str = "error",
        instructions: InstructionTokens | None = None,
    ) -> None:
        if corrupt_images not in POLICIES:
            raise ConfigError(f"corrupt_images is {corrupt_images!r}, expected one of {', '.join(POLICIES)}")
        self.mixture = mixture
        self.encoder = encoder
        self.cluster_ids = None if cluster_ids is None else _checked_ids(cluster_ids, mixture)
        self.corrupt_images = corrupt_images
        self.instructions = instructions
        self._choose_samples()
        if self.has_image.any() and not encoder.takes_images:
            raise ConfigError("the rows have images, but there is no image processor; load one with the model")
        # One flag a sample, in shared memory: loader workers set it, the main process counts.
        self._unreadable = torch.zeros(len(self), dtype=torch.uint8).share_memory_()
        self._work = _WorkLog()

    def _choose_samples(self) -> None:
        """Measure all rows once: which are kept, how long they are, which have images."""
        mixture = self.mixture
        measures = [self._measures(spec) for spec in mixture.specs]
        images = [_with_image(mixture.rows[name]) for name in mixture.names]
        lengths = mixture.spread(measures)
        kept = np.flatnonzero(lengths != DROPPED)
        self._samples = kept
        self.lengths = lengths[kept]
        self.has_image = mixture.spread(images)[kept]
        self.dropped = sum(int((of_dataset == DROPPED).sum()) for of_dataset in measures)
        max_length = self.encoder.max_length
        if self.dropped:
            logger.warning(
                "left out %d of %d rows: with max_length %s an image or every answer would be cut off",
                self.dropped,
                sum(map(len, measures)),
                max_length,
            )
        if not len(kept):
            raise DataError(f"no row is left: with max_length {max_length} all would be cut; give a larger one")

    def _measures(self, spec: DatasetSpec) -> np.ndarray:
        """The measure of each row of one dataset."""
        rows = self.mixture.rows[spec.name]
        measure = partial(measure_rows, partial(self._measure_chunk, spec), len(rows))
        return remembered(rows, self.encoder.measure_key(spec.image_folder), measure)

    def _measure_chunk(self, spec: DatasetSpec, chunk: range) -> list[int]:
        rows = [self.mixture.rows[spec.name][index] for index in chunk]
        try:
            return self._measure(spec, rows)
        except Exception:
            # Row by row, so that the one at fault is named.
            for index, row in zip(chunk, rows, strict=True):
                with self._locating(spec.name, index):
                    self._measure(spec, [row])
            raise

    def _measure(self, spec: DatasetSpec, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        files = [[image_path(spec.image_folder, image) for image in row_images(row)] for row in rows]
        return self.encoder.measure(rows, files)

    @contextmanager
    def _locating(self, name: str, index: int) -> Iterator[None]:
        """Put file and row in front of an error's message; what isn't a user's error becomes a DataError."""
        try:
            yield
        except UserError as error:
            raise type(error)(f"{self._place(name, index)}: {error}") from error
        except Exception as error:
            raise DataError(f"{self._place(name, index)}: {type(error).__name__}: {error}") from error

    def _place(self, name: str, index: int) -> str:
        path = self.mixture.specs[self.mixture.names.index(name)].data_path
        return f"{path}: row {index} (id {self.mixture.rows[name][index].get('id')!r})"

    @property
    def skipped_images(self) -> int:
        """Rows met so far whose images could not be read, under `corrupt_images="skip"`."""
        places = torch.nonzero(self._unreadable).flatten().tolist()
        return len({self.mixture.locate(int(self._samples[place])) for place in places})

    def rows_in_work(self) -> list[str]:
        """The rows that processes are loading right now, or were loading when they were killed: pid, file, row, id."""
        found = []
        for pid, place in self._work.in_work():
            dataset, row = self.mixture.locate(int(self._samples[place]))
            found.append(f"process {pid}: {self._place(self.mixture.names[dataset], row)}")
        return found

    def __len__(self) -> int:
        return len(self._samples)

    def of_samples(self, of_rows: Sequence[np.ndarray]) -> np.ndarray:
        """Turn one array for each dataset, with one value a row, into one array with a value for each sample."""
        return self.mixture.spread(of_rows)[self._samples]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample, or with a negative index a filler: `dataset[-(i + 1)]` (that is `dataset[~i]`) is sample i with
        nothing to learn, all its labels being -100. Fillers make the last batch whole, so that every sample counts
        exactly `repeat` times an epoch.

        Returns:
            what the encoder makes of the row: input_ids (T,) long, labels (T,) long, and what the model takes of its
            images; cluster_id int, absent without cluster ids; dataset_id int; instruction_ids (L,) long, absent
            without `instructions`.

        Raises:
            ImageUnreadable: an image can't be read, and the policy is "error" or no later sample is any better.
            DataError: anything else that went wrong with the row, which is named.
        """
        index = operator.index(index)
        place = index if index >= 0 else ~index
        if place >= len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        self._work.start(place)
        try:
            sample = self._sample_from(place)
        finally:
            self._work.done()
        if index < 0:
            sample["labels"] = torch.full_like(sample["labels"], IGNORE_INDEX)
        return sample

    def _sample_from(self, first: int) -> dict[str, Any]:
        """The sample at a place, or under "skip" the next one whose images can be read."""
        for step in range(len(self)):
            place = (first + step) % len(self)
            try:
                return self._load(*self.mixture.locate(int(self._samples[place])))
            except ImageUnreadable as error:
                if self.corrupt_images == "error":
                    raise ImageUnreadable(f"{error}, or go on with `--corrupt_images skip`") from error
                if not self._unreadable[place]:
                    self._unreadable[place] = 1
                    logger.warning("skipping a row, the next one takes its place: %s", error)
        raise ImageUnreadable(
            "none of the samples has images that can be read; `llava-mocle data check RECIPE` says why"
        )

    def _load(self, dataset: int, row_index: int) -> dict[str, Any]:
        spec = self.mixture.specs[dataset]
        row = self.mixture.rows[spec.name][row_index]
        with self._locating(spec.name, row_index):
            paths = [image_path(spec.image_folder, path) for path in row_images(row)]
            sample = self.encoder.encode(row, [load_image(path) for path in paths], paths)
            if self.instructions is not None:
                sample[INSTRUCTION_IDS] = self.instructions.of_row(row)
        if self.cluster_ids is not None:
            sample["cluster_id"] = int(self.cluster_ids[spec.name][row_index])
        sample["dataset_id"] = dataset
        return sample


class _WorkLog:
    """Which sample each process is loading, in shared memory: the note of a process that is killed stays readable.

    There is one place a loader worker, with (pid, sample index + 1); workers beyond `_PLACES` share places, and the
    later note counts.
    """

    _PLACES = 1024
    _IDLE = 0

    def __init__(self) -> None:
        self._notes = torch.zeros(self._PLACES, 2, dtype=torch.long).share_memory_()

    def start(self, index: int) -> None:
        """Note that this process starts to load a sample."""
        self._notes[self._place()] = torch.tensor([os.getpid(), index + 1])

    def done(self) -> None:
        """Note that this process has loaded it, or has raised an error."""
        self._notes[self._place(), 1] = self._IDLE

    def in_work(self) -> list[tuple[int, int]]:
        """(pid, sample index) of every process that has started with a sample and is not done."""
        return [(pid, noted - 1) for pid, noted in self._notes.tolist() if noted != self._IDLE]

    def _place(self) -> int:
        info = get_worker_info()
        return 0 if info is None else 1 + info.id % (self._PLACES - 1)


def _with_image(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Which rows have an image, bool (N,)."""
    if isinstance(rows, RowTable):
        return rows.image_counts() > 0
    return np.array([bool(row_images(row)) for row in rows], dtype=bool)


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
