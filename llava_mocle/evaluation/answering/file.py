"""Answers files: LLaVA's JSONL, one object with the keys of `FIELDS` a line. Reading, appending, resuming."""

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question, check_id
from llava_mocle.io.files import lock
from llava_mocle.io.jsonl import parse_jsonl, to_jsonl

FIELDS = ("question_id", "prompt", "text", "answer_id", "model_id", "metadata")


def make_answer(
    question_id: str | int,
    prompt: str,
    text: str,
    model_id: str,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One answer record, its keys in LLaVA's order.

    `answer_id` follows from the model and the question. So a run that was stopped, or divided into parts, writes the
    same bytes as one that was not.

    Args:
        metadata: what else belongs to the answer; `key` is the question's, where it has one.
    """
    named = "\n".join(map(str, (model_id, question_id, prompt, *_key(metadata or {}))))
    answer_id = uuid.uuid5(uuid.NAMESPACE_OID, named).hex
    return {
        "question_id": question_id,
        "prompt": prompt,
        "text": text,
        "answer_id": answer_id,
        "model_id": model_id,
        "metadata": dict(metadata or {}),
    }


def read_answers(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All complete answers of a file, in order.

    A killed run leaves a last line without a newline. Such a line is left out; it is no error.

    Raises:
        DataError: a line is not JSON, misses a field, or answers a question (its id, prompt and key) that an earlier
            line answered.
    """
    answers: list[dict[str, Any]] = []
    answered: dict[tuple[Any, ...], str] = {}
    remedy = (
        "an answers file has one JSON object a line: repair the line, or pass --overwrite to answer everything again."
    )
    for place, value in parse_jsonl(_complete_lines(Path(path)), path, remedy):
        record = _checked(value, place)
        question = question_of(record)
        if question in answered:
            raise DataError(
                f"{place}: question_id {record['question_id']!r} was already answered on {answered[question]}. Each "
                "question may stand once: remove one line, or pass --overwrite."
            )
        answered[question] = place.removeprefix(f"{path}, ")
        answers.append(record)
    return answers


@dataclass(frozen=True)
class AnswerRun:
    """What all answers of one file share.

    Attributes:
        model_id: the model's name and fingerprint.
        settings: entries that `metadata` must have. An answer without such an entry is accepted.
    """

    model_id: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def check(self, path: str | os.PathLike[str], records: Sequence[Mapping[str, Any]]) -> None:
        """Check that these answers were made by this model with these settings.

        Raises:
            DataError: one was not.
        """
        for number, record in enumerate(records, start=1):
            if record["model_id"] != self.model_id:
                raise DataError(
                    f"{path}, answer {number}: written by model {record['model_id']!r}, but this run's model is "
                    f"{self.model_id!r}. Choose another answers file, or pass --overwrite to start anew."
                )
            for name, expected in self.settings.items():
                found = record["metadata"].get(name, expected)
                if found != expected:
                    raise DataError(
                        f"{path}, answer {number}: its {name} is {found!r}, but this run's is {expected!r}. "
                        f"Use the same settings, choose another answers file, or pass --overwrite to start anew."
                    )

    def check_prefix(
        self, path: str | os.PathLike[str], records: Sequence[Mapping[str, Any]], questions: "Sequence[Question]"
    ) -> int:
        """How many of these questions the records already answer.

        Raises:
            DataError: the answers are not those of the first questions, in order.
        """
        for number, (record, question) in enumerate(zip(records, questions, strict=False), start=1):
            self.check_answer(path, number, record, question)
        return min(len(records), len(questions))

    def check_answer(
        self, path: str | os.PathLike[str], number: int, record: Mapping[str, Any], question: "Question"
    ) -> None:
        """Check that an answer is to this question, by the expert that it asks for.

        Raises:
            DataError: it is not.
        """
        used = record["metadata"].get("dataset", question.dataset)
        if used != question.dataset:
            raise DataError(
                f"{path}, answer {number}: given by the expert of dataset {used!r}, but this run takes that of "
                f"{question.dataset!r}. Choose another answers file, or pass --overwrite to start anew."
            )
        asked = (question.question_id, question.prompt, *_key({"key": question.key}))
        answered = (record["question_id"], record["prompt"], *_key(record["metadata"]))
        if answered == (question.unique_id, question.prompt) != asked:
            raise DataError(
                f"{path}, answer {number}: has the question_id {answered[0]!r} of an earlier version, which is now "
                f"{question.question_id!r} as in LLaVA's files. `llava-mocle eval --answers {path}` scores these "
                "answers as they are; to answer anew, choose another answers file, or pass --overwrite."
            )
        if answered != asked:
            raise DataError(
                f"{path}, answer {number}: answers question {record['question_id']!r} ({record['prompt']!r}), but "
                f"question {number} is now {question.question_id!r} ({question.prompt!r}). The questions have "
                "changed since the file was written: choose another answers file, or pass --overwrite."
            )


class AnswerFile:
    """An answer file open for appending; a context manager.

    An existing file is continued: its answers are in `answers`, and a half-written last line is cut off. What `append`
    writes is on the disk before it returns, so a killed run loses at most the batch it was working on. No other process
    can open the file for appending until it is closed.

    Raises:
        DataError: the file holds answers of another model or of other settings, is damaged, can't be written, or
            another process is writing it.
    """

    def __init__(self, path: str | os.PathLike[str], run: AnswerRun, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.run = run
        self.answers: list[dict[str, Any]] = []
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115
        except OSError as error:
            raise DataError(
                f"{self.path}: answers cannot be written there ({error.strerror}); choose another place."
            ) from error
        try:
            self._claim(overwrite)
        except BaseException:
            self._file.close()
            raise

    def _claim(self, overwrite: bool) -> None:
        if not lock(self._file.fileno(), self.path):
            raise DataError(f"{self.path}: another process is writing answers there; wait for it, or choose another.")
        if overwrite:
            self._file.truncate(0)
        self.answers = read_answers(self.path)
        self.run.check(self.path, self.answers)
        cut_half_line(self.path)

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add answers. If the process dies meanwhile, the first of them may be there, and the last line may be cut."""
        self._file.write(to_jsonl(records))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.answers.extend(dict(record) for record in records)

    def check_prefix(self, questions: "Sequence[Question]") -> int:
        """How many of these questions the file already answers; see `AnswerRun.check_prefix`."""
        return self.run.check_prefix(self.path, self.answers, questions)

    def __enter__(self) -> "AnswerFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _checked(record: Any, place: str) -> dict[str, Any]:
    remedy = "Is this an answers file? Choose another one, or pass --overwrite."
    missing = [field for field in FIELDS if not isinstance(record, dict) or field not in record]
    if missing:
        raise DataError(f"{place}: no field {missing[0]!r}; an answer has {', '.join(FIELDS)}. {remedy}")
    check_id(record["question_id"], place)
    for name in ("prompt", "text", "model_id"):
        if not isinstance(record[name], str):
            raise DataError(f"{place}: {name!r} is {record[name]!r:.60}, expected a text. {remedy}")
    if not isinstance(record["metadata"], dict):
        record["metadata"] = {}
    checked: dict[str, Any] = record
    return checked


def _key(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The key of the question that an answer is to, as text; nothing where it has none."""
    key = metadata.get("key")
    return () if key is None else (str(key),)


def question_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells the question of an answer from all others: its id as text, the prompt, and the key if it has one."""
    return str(record["question_id"]), record["prompt"], *_key(record["metadata"])


def cut_half_line(path: Path) -> None:
    """Cut off what a killed run has left of a last line."""
    if path.exists():
        os.truncate(path, len(_complete_lines(path).encode()))


def _complete_lines(path: Path) -> str:
    """The lines that end in a newline."""
    content = path.read_bytes()
    try:
        return content[: content.rfind(b"\n") + 1].decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}. Is this an answers file?") from error
