"""Several datasets, each repeated, under one index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llava_mocle.data.rows import read_rows
from llava_mocle.errors import ConfigError
from llava_mocle.io.paths import why_no_file_name
from llava_mocle.io.text import not_unicode

# An epoch of more passes over one dataset is a slip of the keyboard; and its samples still fit into 64 bit.
MOST_REPEATS = 1_000_000


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
        if (trouble := why_no_file_name(self.name)) is not None:
            raise ConfigError(f"dataset {self.name!r}: the name {trouble}; answers and scores are filed under it")
        for key in ("data_path", "image_folder", "eval_data_path"):
            value = getattr(self, key)
            if value is None and key == "eval_data_path":
                continue
            if not isinstance(value, str) or (key == "data_path" and not value):
                raise ConfigError(f"dataset {self.name!r}: {key} is {value!r}, expected a path")
            if (trouble := not_unicode(value)) is not None:
                raise ConfigError(f"dataset {self.name!r}: {key} is {value!r}, which holds {trouble}; expected a path")
        if isinstance(self.repeat, bool) or not isinstance(self.repeat, int) or not 1 <= self.repeat <= MOST_REPEATS:
            raise ConfigError(
                f"dataset {self.name!r}: repeat is {self.repeat!r}, expected a whole number from 1 to {MOST_REPEATS}"
            )

    @classmethod
    def single(cls, data_path: str, image_folder: str = "", eval_data_path: str | None = None) -> "DatasetSpec":
        """Shorthand for the only dataset of a run, named after its file."""
        return cls(Path(data_path).stem, data_path, image_folder, eval_data_path=eval_data_path)


class Mixture:
    """Rows of several datasets under one index.

    Index i runs through the datasets in order, each `repeat` times over. So every row is met exactly `repeat` times an
    epoch; the sampler decides the order.

    Attributes:
        specs: the datasets; a dataset's id is its place here.
        rows: dataset name -> its rows: a `RowTable`, or any sequence of validated rows.

    Example:
        Two datasets of 3 and 2 rows with repeat 1 and 2 make `len(mixture) == 7`;
        `mixture.locate(5) == (1, 0)`: dataset 1, row 0, for the second time.
    """

    def __init__(self, specs: Sequence[DatasetSpec], rows: Mapping[str, Sequence[dict[str, Any]]]) -> None:
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
        self._sizes = np.array([len(rows[spec.name]) for spec in self.specs], dtype=np.int64)
        counts = self._sizes * [spec.repeat for spec in self.specs]
        # Where each dataset's indices end.
        self._ends = np.cumsum(counts)

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
        return int(self._ends[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """(dataset id, row index in that dataset) of an index.

        Raises:
            IndexError: there is no such index.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)}")
        dataset = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[dataset - 1]) if dataset else 0
        return dataset, (index - start) % int(self._sizes[dataset])

    def spread(self, of_rows: Sequence[np.ndarray]) -> np.ndarray:
        """Turn one array for each dataset, with one value a row, into one array with a value for each index."""
        return np.concatenate([np.tile(values, spec.repeat) for values, spec in zip(of_rows, self.specs, strict=True)])
