"""Which runs' weights are kept: they fill a disk, and most are never loaded again."""

from collections.abc import Iterable, Mapping

from llava_mocle.experiment.folder import RunFolder, State
from llava_mocle.experiment.grid import VALIDATION, Entry
from llava_mocle.experiment.scores import domain_scores


def remove_weights(folders: Mapping[Entry, RunFolder], losers: Iterable[RunFolder], keep: str) -> list[str]:
    """Remove the weights that are not to be kept, of runs that are done.

    A method's are looked at once all its runs are done. Until then every run keeps its weights.

    Args:
        folders: of the places of the report.
        losers: of the search of the learning rate, with rates that were not chosen.
        keep: one of `design.KEEP`.

    Returns:
        The names of the runs whose weights were removed now.
    """
    if keep == "all":
        return []
    kept: set[str] = set()
    unfinished: set[str] = set()
    for variant in dict.fromkeys(entry.variant for entry in folders):
        own = {entry: folder for entry, folder in folders.items() if entry.variant == variant}
        if any(folder.state() != State.DONE for folder in own.values()):
            unfinished |= {folder.run.name for folder in own.values()}
        elif keep == "best" and variant.ablation is None:
            best = _best_seed(own)
            kept |= {folder.run.name for entry, folder in own.items() if entry.seed == best}
    removed = []
    for folder in (*folders.values(), *losers):
        name = folder.run.name
        if name not in kept | unfinished and folder.state() == State.DONE and folder.has_weights():
            folder.remove_weights()
            removed.append(name)
    return removed


def _best_seed(folders: Mapping[Entry, RunFolder]) -> int:
    """The seed with the best mean of the domains' validation scores; of equal ones the first."""
    scores: dict[int, list[float]] = {}
    for entry, folder in folders.items():
        found = [domain["score"] for domain in domain_scores(folder, VALIDATION).values()]
        scores.setdefault(entry.seed, []).extend(found)
    return max(scores, key=lambda seed: sum(scores[seed]) / len(scores[seed]))
