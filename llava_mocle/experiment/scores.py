"""The scores of finished runs: a table for each method, and the learning rate that validation chooses."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llava_mocle.errors import DataError
from llava_mocle.evaluation.scores.results import HELD_OUT_KIND, read_results
from llava_mocle.experiment.folder import RunFolder, State
from llava_mocle.experiment.grid import VALIDATION, Entry, Grid, Variant
from llava_mocle.experiment.statistics import Table


def domain_scores(folder: RunFolder, split: str) -> dict[str, dict[str, Any]]:
    """Domain -> its entry in the `results.json` of a split; {} where the split has no rows of the run's domains."""
    if not folder.domains(split):
        return {}
    entries: dict[str, dict[str, Any]] = read_results(folder.eval(split), HELD_OUT_KIND)["domains"]
    return entries


@dataclass(frozen=True)
class Search:
    """What the search of a method's learning rate found.

    Attributes:
        tried: rate -> mean of the domains' validation scores; None: its runs are not done.
        chosen: the best one, the smallest of those that are equal; None: a run is not done yet.
    """

    tried: Mapping[float, float | None]
    chosen: float | None


def search_results(grid: Grid, entries: Sequence[Entry]) -> dict[str, Search]:
    """Method -> its search, by the runs that are done.

    Args:
        entries: of the search, as `Grid.search` gives them.
    """
    found: dict[str, dict[float, list[float | None]]] = {}
    runs = grid.runs(entries, {})
    for entry in entries:
        by_rate = found.setdefault(entry.variant.name, {})
        scores = by_rate.setdefault(float(entry.rate or 0), [])
        folder = RunFolder(grid, runs[entry])
        scores += _validation(folder)
    return {name: _chosen({rate: _mean(scores) for rate, scores in rates.items()}) for name, rates in found.items()}


def _validation(folder: RunFolder) -> list[float | None]:
    """A run's score on each of its domains."""
    if folder.state() not in (State.DONE, State.UNASKED):
        return [None]
    return [entry["score"] for entry in domain_scores(folder, VALIDATION).values()]


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return math.fsum(known) / len(known) if len(known) == len(scores) else None


def _chosen(tried: Mapping[float, float | None]) -> Search:
    known = {rate: score for rate, score in tried.items() if score is not None}
    if len(known) < len(tried):
        return Search(tried, None)
    return Search(tried, min(known, key=lambda rate: (-known[rate], rate)))


def table_of(
    grid: Grid, variant: Variant, folders: Mapping[Entry, RunFolder], split: str, digests: dict[str, str]
) -> Table | None:
    """The scores of a method on a split, of the seeds whose runs are all done; None: of no seed.

    Args:
        digests: domain -> the digest of its questions; those of a domain that is met first are filled in.

    Raises:
        DataError: a run was asked other questions than the ones before.
    """
    own = [entry for entry in folders if entry.variant == variant]
    rows: dict[str, list[np.ndarray]] = {}
    seeds = []
    for seed in variant.seeds:
        parts = [folders[entry] for entry in own if entry.seed == seed]
        if not parts or any(part.state() != State.DONE for part in parts):
            continue
        seeds.append(seed)
        for part in parts:
            for domain, entry in domain_scores(part, split).items():
                if digests.setdefault(domain, entry["items_digest"]) != entry["items_digest"]:
                    raise DataError(
                        f"{part.eval(split)}: was asked other questions of {domain} than another run; start the "
                        "comparison again with --overwrite"
                    )
                rows.setdefault(domain, []).append(np.array(str(entry["item_scores"]).split(), dtype=np.float64))
    if not rows:
        return None
    order = [name for name in grid.specs if name in rows]
    return Table(tuple(seeds), {name: np.stack(rows[name]) for name in order})
