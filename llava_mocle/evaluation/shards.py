"""Which part of the questions a process answers, and its file; parts are joined in order once all are complete."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llava_mocle.errors import DataError, UserError
from llava_mocle.evaluation.answers import AnswerKey, AnswerRun, read_answers
from llava_mocle.files import write_text

T = TypeVar("T")


def _alone(error: str | None) -> list[str]:
    return [error] if error else []


@dataclass(frozen=True)
class Shard:
    """This process among those that answer the same questions.

    Attributes:
        index, count: it answers chunk `index` of `count`.
        joins: whether it also joins the parts and scores them. One of several processes that run together does; of
            chunks that are started by hand none, but a later run over all questions.
        exchange: gives what went wrong here (None: nothing) to the processes that run together with this one, waits
            for them, and returns what went wrong anywhere.
    """

    index: int = 0
    count: int = 1
    joins: bool = True
    exchange: Callable[[str | None], list[str]] = _alone

    def together(self, work: Callable[[], T]) -> T:
        """Do `work`, and wait until the other processes have done theirs.

        Raises:
            UserError: here or elsewhere it could not be done; raised by all of them, so that all go on alike.
        """
        error: UserError | None = None
        try:
            result = work()
        except UserError as raised:
            error = raised
        messages = self.exchange(str(error) if error else None)
        if error:
            raise error
        if messages:
            raise DataError(messages[0])
        return result

    def answers_file(self, whole: Path, start: int, total: int) -> Path:
        """Where this shard's answers go, given where all of them will be.

        Args:
            start, total: questions `start` to `total` are shared out, those before are in `whole` already.
        """
        return whole.with_name(f"{whole.stem}.{self.index}of{self.count}-{start}to{total}{whole.suffix}")


@dataclass(frozen=True)
class _Set:
    """The files of one sharing-out: index -> path."""

    count: int
    start: int
    files: dict[int, Path]

    @property
    def complete(self) -> bool:
        return len(self.files) == self.count

    def read(self, whole: Path) -> list[dict[str, Any]]:
        """The answers that were in `whole` before, and its own."""
        before = read_answers(whole)[: self.start] if self.start and whole.exists() else []
        return before + [record for index in range(self.count) for record in read_answers(self.files[index])]

    def newer_than(self, whole: Path) -> bool:
        """Whether the answers in it were made after those of `whole`, and are not left over from before."""
        return not whole.exists() or all(
            path.stat().st_mtime_ns >= whole.stat().st_mtime_ns for path in self.files.values()
        )


def _sets(whole: Path, total: int | None = None) -> list[_Set]:
    """All sharings-out beside `whole` (up to question `total`, if given)."""
    pattern = re.compile(rf"{re.escape(whole.stem)}\.(\d+)of(\d+)-(\d+)to(\d+){re.escape(whole.suffix)}")
    found: dict[tuple[int, int, int], dict[int, Path]] = {}
    for path in whole.parent.glob(f"{whole.stem}.*of*-*to*{whole.suffix}"):
        match = pattern.fullmatch(path.name)
        if match:
            index, count, start, end = map(int, match.groups())
            found.setdefault((count, start, end), {})[index] = path
    return [_Set(count, start, files) for (count, start, end), files in sorted(found.items()) if total in (None, end)]


def remove_shards(whole: Path, index: int | None = None) -> None:
    """Remove the shards of `whole`, of runs of any size; only those of one index, if given."""
    for found in _sets(whole):
        for number, path in found.files.items():
            if index in (None, number):
                path.unlink(missing_ok=True)


def _set_to_join(whole: Path, total: int) -> _Set | None:
    """The complete set that is newer than `whole`.

    Raises:
        DataError: some of a set are there and others not, and `whole` is not there either; or there are several sets.
    """
    sets = _sets(whole, total)
    complete = [found for found in sets if found.complete and found.newer_than(whole)]
    if len(complete) > 1:
        raise DataError(
            f"{whole.parent}: {whole.name} has complete sets of {' and of '.join(str(s.count) for s in complete)} "
            "shards; remove all but the one that is meant."
        )
    if complete:
        return complete[0]
    if sets and not whole.exists():
        most = max(sets, key=lambda found: len(found.files) / found.count)
        lacking = sorted(set(range(most.count)) - set(most.files))
        raise DataError(
            f"{whole.parent}: of {most.count} shards of {whole.name}, {', '.join(map(str, lacking))} are not there; "
            "run them (--num-chunks, --chunk-idx), or pass --overwrite to answer everything in one process."
        )
    return None


def join_shards(whole: Path, keys: Sequence[AnswerKey], run: AnswerRun, *, own: tuple[int, int] | None = None) -> None:
    """Join the complete shards beside `whole` into it, in the order of the questions, and remove all shards.

    Nothing happens where there are none, or only such as were written before `whole` was.

    Args:
        own: (count, start) of the shards to join, whatever else lies there.

    Raises:
        DataError: a shard is unfinished, of another model or settings, or of other questions; nothing is changed then.
    """
    if own is None:
        found = _set_to_join(whole, len(keys))
    else:
        found = next((s for s in _sets(whole, len(keys)) if (s.count, s.start) == own and s.complete), None)
    if found is None:
        return
    path, records = found.files[0], found.read(whole)
    run.check(path, records)
    if len(records) != len(keys):
        raise DataError(
            f"{whole.parent}: the {found.count} shards of {whole.name} hold {len(records)} answers to {len(keys)} "
            "questions; finish every shard first."
        )
    run.check_prefix(path, records, keys)
    write_text(whole, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    remove_shards(whole)


def join_if_finished(whole: Path, keys: Sequence[AnswerKey], run: AnswerRun) -> None:
    """`join_shards` where that can be done; what is unfinished is left for the run that goes on with it.

    Raises:
        DataError: finished shards of another model or settings, or of other questions.
    """
    finished = [s for s in _sets(whole, len(keys)) if s.complete and s.newer_than(whole)]
    finished = [s for s in finished if len(s.read(whole)) == len(keys)]
    if len(finished) == 1:
        join_shards(whole, keys, run, own=(finished[0].count, finished[0].start))
