"""Parts: the questions are divided into consecutive parts, each is answered into a file, and the files are joined.

`join_parts` is the one joiner. `Division` names the part files of `llava-mocle eval`, and finds those of earlier runs.
LLaVA's programs leave the names of the files to the user.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mocle.errors import ConfigError, DataError
from llava_mocle.evaluation.answering.ahead import ahead_file
from llava_mocle.evaluation.answering.file import AnswerRun, read_answers
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.io.jsonl import write_jsonl

_SETTINGS = ("generation", "predictor")


def check_part(count: int, index: int | None) -> None:
    """
    Raises:
        ConfigError: there is no part `index` of `count`.
    """
    if count < 1 or index is None or not 0 <= index < count:
        raise ConfigError(f"--chunk-idx {index} of --num-chunks {count}: indices go from 0 to num_chunks - 1.")


def part_of(questions: Sequence[Question], count: int, index: int) -> list[Question]:
    """Part `index` of `count` consecutive parts, divided as LLaVA does; all parts, in order, give the whole."""
    check_part(count, index)
    size = -(-len(questions) // count)
    return list(questions[index * size : (index + 1) * size])


def join_parts(
    whole: Path,
    files: Sequence[Path],
    questions: Sequence[Question],
    run: AnswerRun | None = None,
    *,
    start: int = 0,
    replace: bool = False,
) -> list[dict[str, Any]]:
    """Write `whole` from the files of its parts, in the order of the questions. The files stay.

    Args:
        questions: all of them. Those from `start` on are divided over `files`; `whole` answers the ones before.
        run: what the answers must share; None: what the first of them says.
        replace: the answers in `whole` may be those of another run.

    Returns:
        The answers, one a question.

    Raises:
        DataError: a part is missing or unfinished, answers other questions, or is of another model or other settings;
            or so are the answers in `whole`. Nothing is changed then.
    """
    joined = []
    for index, file in enumerate(files):
        part = part_of(questions[start:], len(files), index)
        if not file.exists():
            raise DataError(
                f"{file}: this part is not there. Run part {index} of {len(files)}, then join again. Processes that "
                "answer together must all write to the same folder: is it on a shared filesystem?"
            )
        records = read_answers(file)
        if run is None and records:
            settings = {name: records[0]["metadata"].get(name, "") for name in _SETTINGS}
            run = AnswerRun(records[0]["model_id"], settings)
        if run is not None:
            run.check(file, records)
            run.check_prefix(file, records, part)
        if len(records) != len(part):
            raise DataError(
                f"{file}: {len(records)} answers to {len(part)} questions; finish this part, then join again."
            )
        joined += records
    there = [] if replace or not whole.exists() else read_answers(whole)
    if len(there) < start:
        raise DataError(f"{whole}: {len(there)} answers, but the parts beside it go on after {start}; remove them.")
    if run is not None:
        run.check(whole, there)
        run.check_prefix(whole, there[:start], questions)
    joined = there[:start] + joined
    write_jsonl(whole, joined)
    return joined


@dataclass(frozen=True, order=True)
class Division:
    """One way in which the questions of an answers file were divided, and the files of its parts.

    Attributes:
        whole: the file that all answers go into in the end.
        count: how many parts there are.
        start, total: questions `start` to `total` are divided; those before are answered in `whole`.
        replaces: the `content_name` of `whole` where the answers are to replace it; "" where they are added to it.
    """

    whole: Path
    count: int
    start: int
    total: int
    replaces: str = ""

    def file(self, index: int) -> Path:
        """The file of part `index`."""
        mark = f".instead-of-{self.replaces}" if self.replaces else ""
        name = f"{self.whole.stem}.{index}of{self.count}-{self.start}to{self.total}{mark}{self.whole.suffix}"
        return self.whole.with_name(name)

    @property
    def files(self) -> list[Path]:
        return [self.file(index) for index in range(self.count)]

    @property
    def missing(self) -> list[int]:
        """The parts that have no file."""
        return [index for index, file in enumerate(self.files) if not file.exists()]

    @property
    def finished(self) -> bool:
        """Whether the parts hold an answer to every question."""
        return not self.missing and sum(len(read_answers(file)) for file in self.files) == self.total - self.start

    def join(self, questions: Sequence[Question], run: AnswerRun) -> list[dict[str, Any]]:
        """`join_parts`, and remove the part files of `whole`. Returns and raises as `join_parts`."""
        joined = join_parts(self.whole, self.files, questions, run, start=self.start, replace=self.replaces != "")
        remove_parts(self.whole)
        ahead_file(self.whole).unlink(missing_ok=True)
        return joined


def content_name(whole: Path) -> str:
    """A name for what `whole` holds now; "" where there is no such file."""
    return hashlib.sha256(whole.read_bytes()).hexdigest()[:12] if whole.exists() else ""


def find_divisions(whole: Path) -> list[Division]:
    """Every division of which a part file lies beside `whole`."""
    stem, suffix = re.escape(whole.stem), re.escape(whole.suffix)
    pattern = re.compile(rf"{stem}\.\d+of(\d+)-(\d+)to(\d+)(?:\.instead-of-([0-9a-f]+))?{suffix}")
    names = [pattern.fullmatch(path.name) for path in whole.parent.glob(f"*of*-*to*{whole.suffix}")]
    return sorted({Division(whole, int(n[1]), int(n[2]), int(n[3]), n[4] or "") for n in names if n})


def remove_parts(whole: Path, index: int | None = None) -> None:
    """Remove the part files of `whole`, of every division; only those of part `index`, if given."""
    for division in find_divisions(whole):
        for number, file in enumerate(division.files):
            if index in (None, number):
                for path in (file, ahead_file(file)):
                    path.unlink(missing_ok=True)


def join_earlier_parts(whole: Path, questions: Sequence[Question], run: AnswerRun, count: int) -> None:
    """Before a run of `count` processes: join the parts that an earlier run left beside `whole`.

    Unfinished parts stay where this run can go on with them, which takes several processes and as many parts. Nothing
    happens where there are no parts. Nor does it where `whole` has every answer and no part was made to replace it.

    Raises:
        DataError: parts are unfinished and this run cannot go on with them, or two divisions are complete, or as
            `join_parts`; nothing is changed then.
    """
    total = len(questions)
    divisions = [division for division in find_divisions(whole) if division.total == total]
    if whole.exists() and len(read_answers(whole)) >= total:
        divisions = [division for division in divisions if division.replaces == content_name(whole)]
    complete = [division for division in divisions if not division.missing]
    if len(complete) > 1:
        raise DataError(
            f"{whole.parent}: {whole.name} has all parts of {' and all of '.join(str(d.count) for d in complete)}; "
            "remove those that are not meant."
        )
    if complete and (count == 1 or complete[0].finished):
        complete[0].join(questions, run)
        return
    others = [division for division in divisions if count == 1 or division.count != count]
    if others:
        begun = min(others, key=lambda division: len(division.missing) / division.count)
        lacking = f", and {', '.join(map(str, begun.missing))} of them are not there" if begun.missing else ""
        raise DataError(
            f"{whole.parent}: {whole.name} was begun in {begun.count} parts{lacking}; this run has {count}. Go on with "
            f"{begun.count} processes; or finish each part (--num-chunks {begun.count} --chunk-idx 0, 1, ...); or pass "
            f"--overwrite, or remove {whole.stem}.*of{begun.count}-*, to start anew."
        )


def divide(whole: Path, questions: Sequence[Question], run: AnswerRun, count: int, index: int) -> Division:
    """The division in which this run answers part `index` of `count`.

    What `whole` answers already is kept, and the rest divided: as an earlier run of as many parts has begun, else from
    the first question without an answer. A part that was begun to replace `whole` goes on doing so.

    Raises:
        DataError: the answers in `whole` are of another model, other settings or other questions.
    """
    total = len(questions)
    anew = Division(whole, count, 0, total, content_name(whole))
    if anew.file(index).exists():
        return anew
    there = read_answers(whole) if whole.exists() else []
    run.check(whole, there)
    answered = run.check_prefix(whole, there, questions)
    begun = [d.start for d in find_divisions(whole) if (d.count, d.total, d.replaces) == (count, total, "")]
    start = min((start for start in begun if start <= answered < total), default=answered)
    return Division(whole, count, start, total)
