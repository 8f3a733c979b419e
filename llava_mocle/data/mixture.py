"""Datasets x repeats -> one index."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llava_mocle.data.rows import read_rows
from llava_mocle.errors import ConfigError


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of a mixture.

    Attributes:
        name: unique in the mixture; the domain in every table.
        data_path: its rows, LLaVA JSON or JSONL.
        image_folder: what its rows' image paths are relative to.
        repeat: how often each row is seen in one epoch.
        eval_data_path: held-out rows, for the validation loss.
    """

    name: str
    data_path: str
    image_folder: str = ""
    repeat: int = 1
    eval_data_path: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.repeat, bool) or not isinstance(self.repeat, int) or self.repeat < 1:
            raise ConfigError(f"dataset {self.name!r}: repeat is {self.repeat!r}, expected a whole number from 1")

    @classmethod
    def single(cls, data_path: str, image_folder: str = "", eval_data_path: str | None = None) -> "DatasetSpec":
        """Shorthand for the only dataset of a run, named after its file."""
        return cls(Path(data_path).stem, data_path, image_folder, eval_data_path=eval_data_path)


class Mixture:
    """Rows of several datasets under one index.

    Index i runs through the datasets in order, each `repeat` times over; so every row is met exactly `repeat` times
    an epoch, and what order they come in is the sampler's business.

    Attributes:
        specs: the datasets; a dataset's id is its place here.
        rows: dataset name -> its rows.

    Example:
        Two datasets of 3 and 2 rows with repeat 1 and 2 make `len(mixture) == 7`;
        `mixture.locate(5) == (1, 0)`: dataset 1, row 0, for the second time.
    """

    def __init__(self, specs: Sequence[DatasetSpec], rows: dict[str, list[dict[str, Any]]]) -> None:
        """
        Raises:
            ConfigError: no dataset, a name used twice, or a dataset without rows of its own in `rows`.
        """
        self.specs = list(specs)
        self.rows = rows
        names = [spec.name for spec in self.specs]
        if not names:
            raise ConfigError("a mixture needs at least one dataset; give `datasets`, or `data_path`")
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"datasets: the name {name!r} is used twice; every dataset needs its own")
            if name not in rows:
                raise ConfigError(f"dataset {name!r} has no rows in this mixture, which holds {', '.join(rows)}")
        sizes = [len(rows[spec.name]) for spec in self.specs]
        counts = [size * spec.repeat for size, spec in zip(sizes, self.specs, strict=True)]
        self._dataset_of = np.repeat(np.arange(len(sizes), dtype=np.int32), counts)
        tiles = [np.tile(np.arange(size), spec.repeat) for size, spec in zip(sizes, self.specs, strict=True)]
        self._row_of = np.concatenate(tiles)

    @classmethod
    def load(cls, specs: Sequence[DatasetSpec], split: str = "train") -> "Mixture":
        """Read and validate every dataset's rows.

        Args:
            split: "train" reads `data_path`; "eval" reads `eval_data_path`, once each whatever `repeat` says. Dataset
                ids are the same in both: a dataset without held-out rows keeps its place, empty.

        Raises:
            DataError: as `read_rows`.
            ConfigError: as the constructor.
        """
        if split == "train":
            return cls(specs, {spec.name: read_rows(spec.data_path) for spec in specs})
        rows = {spec.name: read_rows(spec.eval_data_path) if spec.eval_data_path else [] for spec in specs}
        held_out = [replace(spec, data_path=spec.eval_data_path or spec.data_path, repeat=1) for spec in specs]
        return cls(held_out, rows)

    @property
    def names(self) -> list[str]:
        """Dataset names; a dataset's id is its place here."""
        return [spec.name for spec in self.specs]

    def __len__(self) -> int:
        return len(self._row_of)

    def locate(self, index: int) -> tuple[int, int]:
        """(dataset id, row index in that dataset) of an index."""
        return int(self._dataset_of[index]), int(self._row_of[index])
