"""Every rank must see the same rows: each takes its share of an order that they all work out for themselves."""

import hashlib
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object

from llava_mocle.data.row_dataset import RowDataset
from llava_mocle.errors import ConfigError

# Of a digest, what a message shows.
_SHOWN = 12


def check_same_rows(datasets: Mapping[str, RowDataset | None]) -> None:
    """Compare what the ranks have read.

    Args:
        datasets: what each is for, in words -> the dataset.

    Raises:
        ConfigError: on all ranks; names the dataset and the hosts.
    """
    state = PartialState()
    if state.num_processes == 1:
        return
    here = (f"rank {state.process_index} on {socket.gethostname()}", fingerprint(datasets))
    found = difference(gather_object([here]))
    if found is not None:
        error = ConfigError(
            f"{found}. All ranks must read the same: put it on a filesystem that all machines share, or copy it anew"
        )
        error.on_every_rank = True
        raise error


def fingerprint(datasets: Mapping[str, RowDataset | None]) -> dict[str, str]:
    """What decides which sample is where in the run: what it is, in words -> what this rank has of it."""
    found: dict[str, str] = {}
    for kind, dataset in datasets.items():
        if dataset is None:
            continue
        for spec in dataset.mixture.specs:
            place = f"dataset {spec.name!r} ({spec.data_path})"
            rows: Any = dataset.mixture.rows[spec.name]
            found[f"{place}: {kind}"] = f"{len(rows)} with digest {str(getattr(rows, 'digest', None))[:_SHOWN]}"
            if dataset.cluster_ids is not None:
                found[f"{place}: cluster ids of its {kind}"] = f"digest {_digest(dataset.cluster_ids[spec.name])}"
        # With the same rows it is the tokenizer or the image processor that differs.
        lengths = f"{len(dataset)} with lengths of digest {_digest(dataset.lengths)}"
        found[f"samples that the model's tokenizer and image size make of all {kind}"] = lengths
    return found


def _digest(values: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype=np.int64).tobytes()).hexdigest()[:_SHOWN]


def difference(everyone: Sequence[tuple[str, Mapping[str, str]]]) -> str | None:
    """The first thing that is not the same on all ranks, with who has what; None if all is.

    Args:
        everyone: of each rank, its name and its `fingerprint`.

    Example:
        `[("rank 0 on a", {"rows": "3"}), ("rank 1 on b", {"rows": "2"})]` gives
        "rows: not the same on all ranks: 3 (rank 0 on a), 2 (rank 1 on b)".
    """
    for what in dict.fromkeys(key for _, facts in everyone for key in facts):
        holders: dict[str, list[str]] = {}
        for name, facts in everyone:
            holders.setdefault(facts.get(what, "none"), []).append(name)
        if len(holders) > 1:
            found = ", ".join(f"{value} ({', '.join(names)})" for value, names in holders.items())
            return f"{what}: not the same on all ranks: {found}"
    return None
