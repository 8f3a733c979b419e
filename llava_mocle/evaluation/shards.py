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

    def answers_file(self, whole: Path) -> Path:
        """Where this shard's answers go, given where all of them will be."""
        if self.count == 1:
            return whole
        return whole.with_name(f"{whole.stem}.{self.index}of{self.count}{whole.suffix}")

    @classmethod
    def of_process(cls) -> "Shard":
        """This process's, by the rank variables of torchrun or srun; the only one without them."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def shard_files(whole: Path) -> list[Path]:
    """The files of the complete set of shards beside `whole`, in order; empty where there is none.

    Raises:
        DataError: some of a set are there and others not, and `whole` is not there either.
    """
    pattern = re.compile(rf"{re.escape(whole.stem)}\.(\d+)of(\d+){re.escape(whole.suffix)}")
    sets: dict[int, dict[int, Path]] = {}
    for path in whole.parent.glob(f"{whole.stem}.*of*{whole.suffix}"):
        match = pattern.fullmatch(path.name)
        if match:
            sets.setdefault(int(match.group(2)), {})[int(match.group(1))] = path
    for count, files in sets.items():
        if len(files) == count:
            return [files[index] for index in range(count)]
    if sets and not whole.exists():
        count, files = max(sets.items())
        lacking = sorted(set(range(count)) - set(files))
        raise DataError(
            f"{whole.parent}: of {count} shards of {whole.name}, {', '.join(map(str, lacking))} are not there; run "
            "them (--num-chunks, --chunk-idx), or remove the others to answer everything in one process."
        )
    return []


def join_shards(whole: Path, questions: Sequence[Question]) -> bool:
    """Join complete shards into `whole`, in the order of the questions; the shards are removed.

    Returns:
        Whether there was anything to join.

    Raises:
        DataError: a shard is unfinished, or the shards are not those of these questions.
    """
    files = shard_files(whole)
    if not files or whole.exists():
        return False
    records = [record for path in files for record in read_answers(path)]
    found, expected = [r["question_id"] for r in records], [q.question_id for q in questions]
    if found != expected:
        place = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(found))
        raise DataError(
            f"{whole.parent}: the {len(files)} shards of {whole.name} hold {len(found)} answers to {len(expected)} "
            f"questions, and the first difference is at answer {place}; finish every shard first, with the same "
            "--limit and --num-chunks."
        )
    aside = whole.with_name(whole.name + ".tmp")
    aside.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    os.replace(aside, whole)
    for path in files:
        path.unlink()
    return True
