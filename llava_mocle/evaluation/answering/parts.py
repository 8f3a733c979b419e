"""Which part of the questions a process answers, and its file; parts are joined in order once all are complete."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llava_mocle.errors import DataError, UserError
from llava_mocle.evaluation.answering.file import AnswerKey, AnswerRun, read_answers
from llava_mocle.io.files import write_text

T = TypeVar("T")


def _alone(error: str | None) -> list[str]:
    return [error] if error else []


class PartnerLost(UserError):
    """A process that answers together with this one has ended early."""


def describe_failure(error: Exception) -> str:
    """A user error's message; of any other, its kind too."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


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

    @property
    def in_company(self) -> bool:
        """Whether other processes run together with this one."""
        return self.exchange is not _alone

    def together(self, work: Callable[[], T]) -> T:
        """Do `work`, and wait until the other processes have done theirs.

        Raises:
            Exception: it could not be done here.
            DataError: it could not be done elsewhere; so all processes raise something, and may go on alike.
            PartnerLost: another process is gone.
        """
        error: Exception | None = None
        try:
            result = work()
        except Exception as raised:
            error = raised
        try:
            messages = self.exchange(describe_failure(error) if error else None)
        except RuntimeError as lost:
            raise PartnerLost(
                f"another process of this evaluation is gone ({lost}); its own words, if any, stand above. The same "
                "command goes on with what is answered."
            ) from error or lost
        if error:
            raise error
        if messages:
            raise DataError(messages[0])
        return result

    def answers_file(self, whole: Path, start: int, total: int, instead_of: str = "") -> Path:
        """Where this shard's answers go, given where all of them will be.

        Args:
            start, total: questions `start` to `total` are shared out, those before are in `whole` already.
            instead_of: the `content_name` of the whole file that these answers are to replace, if there is one.
        """
        mark = f".instead-of-{instead_of}" if instead_of else ""
        return whole.with_name(f"{whole.stem}.{self.index}of{self.count}-{start}to{total}{mark}{whole.suffix}")


def content_name(whole: Path) -> str:
    """A name for what `whole` holds now; "" where there is no such file."""
    return hashlib.sha256(whole.read_bytes()).hexdigest()[:12] if whole.exists() else ""


@dataclass(frozen=True)
class _Set:
    """The files of one sharing-out: index -> path."""

    count: int
    start: int
    instead_of: str
    files: dict[int, Path]

    @property
    def complete(self) -> bool:
        return len(self.files) == self.count

    def read(self, whole: Path) -> list[dict[str, Any]]:
        """The answers that were in `whole` before, and its own."""
        before = read_answers(whole)[: self.start] if self.start and whole.exists() else []
        return before + [record for index in range(self.count) for record in read_answers(self.files[index])]


def _sets(whole: Path, total: int | None = None) -> list[_Set]:
    """All sharings-out beside `whole` (up to question `total`, if given)."""
    stem, suffix = re.escape(whole.stem), re.escape(whole.suffix)
    pattern = re.compile(rf"{stem}\.(\d+)of(\d+)-(\d+)to(\d+)(?:\.instead-of-([0-9a-f]+))?{suffix}")
    found: dict[tuple[int, int, int, str], dict[int, Path]] = {}
    for path in whole.parent.glob(f"{whole.stem}.*of*-*to*{whole.suffix}"):
        match = pattern.fullmatch(path.name)
        if match:
            index, count, start, end = map(int, match.groups()[:4])
            found.setdefault((count, start, end, match[5] or ""), {})[index] = path
    return [
        _Set(count, start, instead_of, files)
        for (count, start, end, instead_of), files in sorted(found.items())
        if total in (None, end)
    ]


def remove_shards(whole: Path, index: int | None = None) -> None:
    """Remove the shards of `whole`, of runs of any size; only those of one index, if given."""
    for found in _sets(whole):
        for number, path in found.files.items():
            if index in (None, number):
                path.unlink(missing_ok=True)


def _live_sets(whole: Path, total: int) -> list[_Set]:
    """The sharings-out that still count: once `whole` has every answer, only such as were made to replace it."""
    sets = _sets(whole, total)
    finished = whole.exists() and len(read_answers(whole)) >= total
    return [found for found in sets if found.instead_of == content_name(whole)] if finished else sets


def _missing(whole: Path, found: _Set, remedy: str) -> DataError:
    lacking = ", ".join(str(index) for index in range(found.count) if index not in found.files)
    return DataError(f"{whole.parent}: of {found.count} shards of {whole.name}, {lacking} are not there; {remedy}")


def join_shards(whole: Path, keys: Sequence[AnswerKey], run: AnswerRun) -> None:
    """Join the complete shards beside `whole` into it, in the order of the questions, and remove all shards.

    Nothing happens where there are none, or `whole` is finished and none were written to replace it.

    Raises:
        DataError: shards are missing or unfinished, of another model or settings, or of other questions, or there are
            several complete sets; nothing is changed then.
    """
    live = _live_sets(whole, len(keys))
    complete = [found for found in live if found.complete]
    if len(complete) > 1:
        raise DataError(
            f"{whole.parent}: {whole.name} has complete sets of {' and of '.join(str(s.count) for s in complete)} "
            "shards; remove all but the one that is meant."
        )
    if complete:
        _join(whole, complete[0], keys, run)
    elif live:
        raise _missing(
            whole,
            max(live, key=lambda found: len(found.files) / found.count),
            "run them (--num-chunks, --chunk-idx), or remove those that are, to answer the rest in one process.",
        )


def join_own(whole: Path, keys: Sequence[AnswerKey], run: AnswerRun, count: int, start: int) -> None:
    """`join_shards` with those that the processes of this run have just written.

    Raises:
        DataError: as `join_shards`; or some are not to be seen from here.
    """
    sets = [
        found for found in _sets(whole, len(keys)) if (found.count, found.start, found.instead_of) == (count, start, "")
    ]
    found = sets[0] if sets else _Set(count, start, "", {})
    if not found.complete:
        raise _missing(whole, found, "every process must write to the same folder: is it on a shared filesystem?")
    _join(whole, found, keys, run)


def join_if_finished(whole: Path, keys: Sequence[AnswerKey], run: AnswerRun, count: int) -> None:
    """Before `count` processes start: `join_shards` where that can be done; what they can go on with is left.

    Raises:
        DataError: finished shards of another model or settings, or of other questions; or unfinished ones of another
            number of processes.
    """
    live = _live_sets(whole, len(keys))
    finished = [found for found in live if found.complete and len(found.read(whole)) == len(keys)]
    if len(finished) == 1:
        _join(whole, finished[0], keys, run)
        return
    others = sorted({found.count for found in live if found not in finished and found.count != count})
    if others:
        raise DataError(
            f"{whole.parent}: {whole.name} was begun with {others[0]} processes, and these are {count}. Go on with "
            f"{others[0]}; or finish each part (--num-chunks {others[0]} --chunk-idx 0, 1, ...); or pass --overwrite, "
            f"or remove {whole.stem}.*of{others[0]}-*, to share out anew."
        )


def shared_start(whole: Path, answered: int, total: int, count: int) -> int:
    """From which question on `count` processes share out: as those that began have, else from the first unanswered."""
    if answered >= total:
        return answered
    begun = [found.start for found in _sets(whole, total) if found.count == count and not found.instead_of]
    return min((start for start in begun if start <= answered), default=answered)


def _join(whole: Path, found: _Set, keys: Sequence[AnswerKey], run: AnswerRun) -> None:
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
