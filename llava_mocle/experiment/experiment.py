"""A comparison from its declaration to its result: what is to be done, the search, the runs, and what they say."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llava_mocle.errors import ConfigError
from llava_mocle.experiment.comparison import compare
from llava_mocle.experiment.execute import Executor
from llava_mocle.experiment.folder import RunFolder, State
from llava_mocle.experiment.grid import Entry, Grid
from llava_mocle.experiment.scores import Search, search_results
from llava_mocle.experiment.weights import remove_weights

_SHOWN = 5


class Experiment:
    """The runs of a grid in their two parts: those that search a learning rate, and those of the report.

    Args:
        only: names of the variants that are worked on, with the search that they need; None: all.

    Raises:
        ConfigError: `only` names no variant.
    """

    def __init__(self, grid: Grid, only: Collection[str] | None = None) -> None:
        self.grid = grid
        names = [variant.name for variant in grid.variants]
        for name in only or ():
            if name not in names:
                raise ConfigError(f"--only {name}: no such method; there are {', '.join(names)}")
        self._entries = [entry for entry in grid.entries() if only is None or entry.variant.name in only]
        needed = {entry.variant.rate_of for entry in self._entries}
        self._search = [entry for entry in grid.search() if entry.variant.name in needed]

    def search(self) -> dict[Entry, RunFolder]:
        """The runs that choose the learning rates."""
        return self._folders(self._search, {})

    def searches(self) -> dict[str, Search]:
        """What they found so far, by method."""
        return search_results(self.grid, self._search)

    def report_runs(self, searches: Mapping[str, Search]) -> dict[Entry, RunFolder]:
        """The runs of the report whose learning rate is known."""
        rates = {name: found.chosen for name, found in searches.items()}
        known = [entry for entry in self._entries if rates.get(entry.variant.rate_of, 0.0) is not None]
        return self._folders(known, rates)

    def listed(self) -> list[Entry]:
        """Every place of both parts, in the order by which `--run` counts them, from 0."""
        return [*self._search, *self._entries]

    def folder_of(self, entry: Entry) -> RunFolder | None:
        """The run of one place; None where its learning rate is not chosen yet."""
        parts = self.search() if entry.rate is not None else self.report_runs(self.searches())
        return parts.get(entry)

    def refuse_changed(self, folders: Mapping[Entry, RunFolder]) -> None:
        """
        Raises:
            ConfigError: a run's folder was made of something else than is asked for; names the runs and the keys.
        """
        changed = [
            f"{folder.run.name} ({'; '.join(found)})"
            for folder in _distinct(folders)
            if folder.state() == State.CHANGED and (found := folder.differences())
        ]
        gone = [folder.run.name for folder in _distinct(folders) if folder.state() == State.WITHOUT_WEIGHTS]
        for runs, what in (
            (changed, "made of something else than is asked for now"),
            (gone, "asked other questions than now, and their weights were removed"),
        ):
            if runs:
                more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
                raise ConfigError(
                    f"{self.grid.root}: runs ({len(runs)}) were {what}: {', '.join(runs[:_SHOWN])}{more}. --overwrite "
                    "makes them anew; another output_dir keeps them"
                )

    def carry_out(self, executor: Executor, keep: str) -> None:
        """Do all that is not done: the search, then the runs of the report; and remove weights as `keep` says."""
        search = self.search()
        executor.work_through(_distinct(search))
        if executor.processes.stopping.is_set():
            return
        searches = self.searches()
        folders = self.report_runs(searches)
        if not executor.overwrite:
            self.refuse_changed(folders)
        executor.work_through(_distinct(folders))
        self.tidy(keep)

    def tidy(self, keep: str) -> list[str]:
        """Remove weights that need not be kept; see `remove_weights`."""
        searches = self.searches()
        folders = self.report_runs(searches)
        used = {folder.run.name for folder in folders.values()}
        losers = [
            folder
            for entry, folder in self.search().items()
            if searches[entry.variant.name].chosen is not None and folder.run.name not in used
        ]
        return remove_weights(folders, losers, keep)

    def result(self) -> dict[str, Any]:
        """What the finished runs say, see `compare`."""
        searches = self.searches()
        folders = self.report_runs(searches)
        return compare(self.grid, folders, searches, self.missing())

    def missing(self) -> list[str]:
        """The names of the runs of the report that are not done, or wait for the search."""
        folders = self.report_runs(self.searches())
        undone = [folder.run.name for folder in _distinct(folders) if folder.state() != State.DONE]
        return undone + [entry.named(None) for entry in self._entries if entry not in folders]

    def _folders(self, entries: Sequence[Entry], rates: Mapping[str, float | None]) -> dict[Entry, RunFolder]:
        made: dict[str, RunFolder] = {}
        found = {}
        for entry, run in self.grid.runs(entries, rates).items():
            found[entry] = made.setdefault(run.name, RunFolder(self.grid, run))
        return found


def _distinct(folders: Mapping[Entry, RunFolder]) -> list[RunFolder]:
    return list({folder.run.name: folder for folder in folders.values()}.values())
