"""Answering in shards: one answers file a chunk, joined in order once all of them are complete."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answers import read_answers
from llava_mocle.evaluation.runner import Question


@dataclass(frozen=True)
class Shard:
    """Which part of the questions this process answers: chunk `index` of `count`."""

    index: int = 0
    count: int = 1

    def answers_file(self, whole: Path, total: int) -> Path:
        """Where this shard's answers go, given where all `total` of them will be; runs of other sizes do not meet."""
        return whole.with_name(f"{whole.stem}.{self.index}of{self.count}-{total}{whole.suffix}")

    @classmethod
    def of_process(cls) -> "Shard":
        """This process's, by the rank variables of torchrun or srun; the only one without them."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def _shard_sets(whole: Path, total: int | None = None) -> dict[int, dict[int, Path]]:
    """Number of shards -> index -> file, of all sets beside `whole` (for `total` questions, if given)."""
    pattern = re.compile(rf"{re.escape(whole.stem)}\.(\d+)of(\d+)-(\d+){re.escape(whole.suffix)}")
    sets: dict[int, dict[int, Path]] = {}
    for path in whole.parent.glob(f"{whole.stem}.*of*-*{whole.suffix}"):
        match = pattern.fullmatch(path.name)
        if match and (total is None or int(match.group(3)) == total):
            sets.setdefault(int(match.group(2)), {})[int(match.group(1))] = path
    return sets


def remove_shards(whole: Path) -> None:
    """Remove all shards of `whole`, of runs of any size."""
    for files in _shard_sets(whole).values():
        for path in files.values():
            path.unlink(missing_ok=True)


def shard_files(whole: Path, total: int, count: int | None = None) -> list[Path]:
    """The files of the complete set of shards beside `whole`, in order; empty where there is none.

    Args:
        total: questions that the shards answer together.
        count: how many shards there are, if that is known.

    Raises:
        DataError: some of a set are there and others not, and `whole` is not there either; or there are several sets.
    """
    sets = _shard_sets(whole, total)
    if count is not None:
        sets = {count: sets.get(count, {})}
    complete = {size: files for size, files in sets.items() if len(files) == size}
    if len(complete) > 1:
        raise DataError(
            f"{whole.parent}: {whole.name} has complete sets of {' and of '.join(map(str, sorted(complete)))} shards; "
            "remove all but the one that is meant."
        )
    for size, files in complete.items():
        return [files[index] for index in range(size)]
    if any(sets.values()) and not whole.exists():
        size, files = max(sets.items())
        lacking = sorted(set(range(size)) - set(files))
        raise DataError(
            f"{whole.parent}: of {size} shards of {whole.name}, {', '.join(map(str, lacking))} are not there; run "
            "them (--num-chunks, --chunk-idx), or pass --overwrite to answer everything in one process."
        )
    return []


def join_shards(whole: Path, questions: Sequence[Question], model_id: str, count: int | None = None) -> bool:
    """Join complete shards into `whole`, in the order of the questions, in place of what it held; they are removed.

    A shard that is there is newer than `whole`: joining removes them.

    Returns:
        Whether there was anything to join.

    Raises:
        DataError: a shard is unfinished, of another model, or of other questions; nothing is changed then.
    """
    files = shard_files(whole, len(questions), count)
    if not files:
        return False
    records = [record for path in files for record in read_answers(path)]
    found, expected = [r["question_id"] for r in records], [q.question_id for q in questions]
    if found != expected:
        place = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(found))
        raise DataError(
            f"{whole.parent}: the {len(files)} shards of {whole.name} hold {len(found)} answers to {len(expected)} "
            f"questions, and the first difference is at answer {place}; finish every shard first."
        )
    others = {record["model_id"] for record in records} - {model_id}
    if others:
        raise DataError(
            f"{files[0]}: the shards were written by {', '.join(sorted(others))}, but this run's model is {model_id}; "
            "choose another --output, or pass --overwrite to answer everything anew."
        )
    aside = whole.with_name(f".{whole.name}.{os.getpid()}.tmp")
    aside.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    os.replace(aside, whole)
    for path in files:
        path.unlink()
    return True
