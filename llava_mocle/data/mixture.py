"""Several datasets under one index, each repeated or drawn by a weight."""

import math
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
# The weight of a dataset that counts by the square root of its number of rows, as in InstructBLIP (arXiv 2305.06500,
# "Balancing Training Datasets").
SQRT_SIZE = "sqrt_size"
MOST_WEIGHT = 1e12


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset of a mixture.

    Attributes:
        name: unique in the mixture; the domain in every table.
        data_path: its rows, LLaVA JSON or JSONL.
        image_folder: what its rows' image paths are relative to.
        repeat: how often each row is seen in one epoch.
        weight: instead of `repeat`: samples are drawn from the datasets in proportion to their weights. A number above
            0, or "sqrt_size": the square root of the number of rows. None: it is repeated.
        eval_data_path: held-out rows, for the validation loss.
    """

    name: str
    data_path: str
    image_folder: str = ""
    repeat: int = 1
    eval_data_path: str | None = None
    weight: float | str | None = None

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
        if self.weight is not None:
            self._check_weight()

    def _check_weight(self) -> None:
        number = isinstance(self.weight, (int, float)) and not isinstance(self.weight, bool)
        if not (number and 0 < self.weight <= MOST_WEIGHT) and self.weight != SQRT_SIZE:  # type: ignore[operator]
            raise ConfigError(
                f"dataset {self.name!r}: weight is {self.weight!r}, expected {SQRT_SIZE}, or a number above 0 and up "
                f"to {MOST_WEIGHT:g}"
            )
        if self.repeat != 1:
            raise ConfigError(
                f"dataset {self.name!r}: both repeat ({self.repeat}) and weight ({self.weight}) are set; keep one of "
                "them"
            )

    def how_often(self) -> str:
        """How often it is met, for people: "2 x", or "weight 0.5"."""
        return f"{self.repeat} x" if self.weight is None else f"weight {self.weight}"

    @classmethod
    def single(cls, data_path: str, image_folder: str = "", eval_data_path: str | None = None) -> "DatasetSpec":
        """Shorthand for the only dataset of a run, named after its file."""
        return cls(Path(data_path).stem, data_path, image_folder, eval_data_path=eval_data_path)


def check_weights(specs: Sequence[DatasetSpec]) -> None:
    """Raises ConfigError where some datasets have a weight, and others have none."""
    without = [spec.name for spec in specs if spec.weight is None]
    if without and len(without) < len(specs):
        raise ConfigError(
            f"dataset {without[0]!r} has no weight, and others have one; give every dataset a weight (a number, or "
            f"{SQRT_SIZE}), or none"
        )


class Mixture:
    """Rows of several datasets under one index.

    Index i runs through the datasets in order, each `repeat` times over. So every row is met exactly `repeat` times an
    epoch; the sampler decides the order. With weights, every row has one index, and the sampler decides how often it is
    met (`WeightedBatchSampler`).

    Attributes:
        specs: the datasets; a dataset's id is its place here.
        rows: dataset name -> its rows: a `RowTable`, or any sequence of validated rows.
        weights: (datasets,) float64, the weights as numbers; None: the datasets are repeated.

    Example:
        Two datasets of 3 and 2 rows with repeat 1 and 2 make `len(mixture) == 7`;
        `mixture.locate(5) == (1, 0)`: dataset 1, row 0, for the second time.
    """

    def __init__(self, specs: Sequence[DatasetSpec], rows: Mapping[str, Sequence[dict[str, Any]]]) -> None:
        """
        Raises:
            ConfigError: no dataset, a name used twice, a dataset without rows of its own in `rows`, or weights for some
                datasets only.
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
        check_weights(self.specs)
        self._sizes = np.array([len(rows[spec.name]) for spec in self.specs], dtype=np.int64)
        self.weights = None
        if self.specs[0].weight is not None:
            pairs = zip(self.specs, self._sizes.tolist(), strict=True)
            self.weights = np.array([_as_number(spec.weight, size) for spec, size in pairs], dtype=np.float64)
        counts = self._sizes * [spec.repeat for spec in self.specs]
        # Where each dataset's indices end.
        self._ends = np.cumsum(counts)

    @classmethod
    def load(cls, specs: Sequence[DatasetSpec], split: str = "train") -> "Mixture":
        """Read and validate every dataset's rows.

        Args:
            split: "train" reads `data_path`; "eval" reads `eval_data_path`, once each whatever `repeat` or `weight`
                say. Dataset ids are the same in both: a dataset without held-out rows keeps its place, empty.

        Raises:
            DataError: as `read_rows`.
            ConfigError: as the constructor.
        """
        if split == "train":
            return cls(specs, {spec.name: read_rows(spec.data_path) for spec in specs})
        rows = {spec.name: read_rows(spec.eval_data_path) if spec.eval_data_path else [] for spec in specs}
        held_out = [
            replace(spec, data_path=spec.eval_data_path or spec.data_path, repeat=1, weight=None) for spec in specs
        ]
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

    def ids_of_rows(self) -> list[np.ndarray]:
        """For each dataset, its id once a row, as `spread` takes it."""
        return [np.full(size, dataset) for dataset, size in enumerate(self._sizes.tolist())]

    def rates(self) -> np.ndarray:
        """(datasets,) float64: how often each row of a dataset is met among `len(self)` samples, on average.

        That is `repeat`; with weights, in proportion to the dataset's weight over its number of rows.
        """
        if self.weights is None:
            return np.array([spec.repeat for spec in self.specs], dtype=np.float64)
        return self.weights / self.weights.sum() * len(self) / self._sizes

    def spread(self, of_rows: Sequence[np.ndarray]) -> np.ndarray:
        """Turn one array for each dataset, with one value a row, into one array with a value for each index."""
        return np.concatenate([np.tile(values, spec.repeat) for values, spec in zip(of_rows, self.specs, strict=True)])


def _as_number(weight: float | str | None, size: int) -> float:
    return math.sqrt(size) if weight == SQRT_SIZE else float(weight or 0)
