"""Answers that are made before their turn. An answers file has the questions' order; they wait in a file beside it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_mocle.evaluation.answering.file import AnswerFile, cut_half_line, question_of, read_answers
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.io.jsonl import to_jsonl


def ahead_file(answers_file: Path) -> Path:
    """Where the answers wait that are ahead of those in `answers_file`."""
    return answers_file.with_name(answers_file.name + ".ahead")


class AnswersAhead:
    """Takes the answers of `questions` in any order, and puts them into an answers file in theirs.

    What `add` is given is on the disk before it returns: in the answers file, or in the file beside it until all
    questions before it are answered. A run that was killed finds it there. `close` removes the file beside, unless it
    has answers to other questions, as those that --limit leaves out.

    Args:
        file: open, with answers to the first questions.
        others: further answers files whose answers ahead are taken over.

    Raises:
        DataError: the answers that wait are damaged, or of another model or other settings.
    """

    def __init__(self, file: AnswerFile, questions: Sequence[Question], others: Sequence[Path] = ()) -> None:
        self.path = ahead_file(file.path)
        self._file = file
        self._questions = questions
        self._waiting: dict[int, dict[str, Any]] = {}
        self._strangers = 0
        places = {_identity(question): index for index, question in enumerate(questions)}
        for path in [self.path, *map(ahead_file, others)]:
            if not path.exists():
                continue
            records = read_answers(path)
            file.run.check(path, records)
            for number, record in enumerate(records, start=1):
                index = places.get(question_of(record))
                if index is not None:
                    file.run.check_answer(path, number, record, questions[index])
                    self._waiting[index] = record
                elif path == self.path:
                    self._strangers += 1
        self._put_in_order()

    @property
    def missing(self) -> list[int]:
        """The indices of the questions without an answer, in order."""
        return [index for index in range(self._done, len(self._questions)) if index not in self._waiting]

    def add(self, indices: Sequence[int], records: Sequence[dict[str, Any]]) -> None:
        """Keep the answers of the questions at these indices."""
        if list(indices) != list(range(self._done, self._done + len(indices))):
            cut_half_line(self.path)
            with open(self.path, "a", encoding="utf-8", newline="\n") as beside:
                beside.write(to_jsonl(records))
                beside.flush()
                os.fsync(beside.fileno())
        self._waiting.update(zip(indices, records, strict=True))
        self._put_in_order()

    def close(self) -> None:
        """Remove the file beside the answers file, if nothing in it waits."""
        if not self._strangers and not self._waiting:
            self.path.unlink(missing_ok=True)

    @property
    def _done(self) -> int:
        return len(self._file.answers)

    def _put_in_order(self) -> None:
        ready: list[dict[str, Any]] = []
        while (record := self._waiting.pop(self._done + len(ready), None)) is not None:
            ready.append(record)
        if ready:
            self._file.append(ready)
        # The answers file has these already: it was written, and the run killed before this file was removed.
        self._waiting = {index: record for index, record in self._waiting.items() if index >= self._done}


def _identity(question: Question) -> tuple[str, ...]:
    key = () if question.key is None else (str(question.key),)
    return str(question.question_id), question.prompt, *key
