"""Benchmarks' scores on disk: one file a task, so that jobs side by side do not collide, and one file of all."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llava_mocle.errors import DataError
from llava_mocle.evaluation.scores.provenance import command, versions
from llava_mocle.io.files import write_text
from llava_mocle.io.folders import make_folder

logger = logging.getLogger(__name__)

KIND = "benchmarks"
HELD_OUT_KIND = "held_out_exact_match"
SCORES_FOLDER = "scores"
RESULTS_FILE = "results.json"
Entry = Mapping[str, Any]


class Asked(NamedTuple):
    """What a run is about to score.

    Attributes:
        n: how many questions of the task it asks.
        judge: who grades the answers; None: nobody, or the task needs no judge.
        answers: the digest of the file of answers that another system wrote; None: this run answers.
    """

    task: str
    n: int
    judge: Mapping[str, Any] | None
    answers: str | None = None


class BenchmarkResults:
    """The scores in a folder, and the rules by which a run of one model may replace them.

    Args:
        model_id, model: its id, and the folder that it was loaded from.
        overwrite: the run answers its questions anew; its tasks' scores and those of other models are removed first.
    """

    def __init__(self, folder: Path, model_id: str, model: str, *, overwrite: bool) -> None:
        self.folder = folder
        self.model_id = model_id
        self.model = model
        self.overwrite = overwrite

    def prepare(self, asked: Sequence[Asked]) -> None:
        """Before the first answer: check whether the run's scores may go here; with `overwrite`, remove old ones.

        Raises:
            DataError: the folder holds results of another kind; or, without `overwrite`, another model's scores, or a
                score of more questions or by another judge; or nothing can be written there.
        """
        make_folder(self.folder)
        if (self.folder / RESULTS_FILE).is_file():
            read_file(self.folder / RESULTS_FILE, KIND)
        files = [path for path in _score_files(self.folder) if path.exists()]
        others = [path for path in files if read_file(path, KIND)["model_id"] != self.model_id]
        if self.overwrite:
            own = [path for path in (_score_file(self.folder, task.task) for task in asked) if path.exists()]
            self._remove(others + own)
        else:
            for path in others:
                check_model(path, KIND, self.model_id)
            for task in asked:
                self._check_replacement(task)

    def record(self, task: Any, items: Any, answers: Any, entry: Entry) -> dict[str, Any]:
        """Write the entry of one task, and `results.json` with those of all tasks so far, which is returned.

        A score that is there already is not replaced by an entry without one.
        """
        before = _entry(self.folder, task.name)
        if before is not None and _scored(before) and not _scored(entry):
            logger.warning(
                "%s: nothing was scored this time, so %s keeps the score of %d questions, graded by %s.",
                task.name,
                _score_file(self.folder, task.name),
                before["n"],
                judge_name(before["settings"].get("judge")),
            )
        else:
            whole = dict(entry) | {"versions": versions(), "command": command()}
            record = {"kind": KIND, "model": self.model, "model_id": self.model_id, "tasks": {task.name: whole}}
            write_json(_score_file(self.folder, task.name), record)
        return _merge_all(self.folder)

    def _check_replacement(self, asked: Asked) -> None:
        path, before = _score_file(self.folder, asked.task), _entry(self.folder, asked.task)
        if before is None:
            return
        remedy = "choose another --output, remove the file, or pass --overwrite, which answers all questions anew."
        if before["n"] > asked.n:
            raise DataError(f"{path}: is the score of {before['n']} questions, but this run asks {asked.n}; {remedy}")
        given = before.get("answers")
        if asked.answers is not None and given is not None and given["sha256"] != asked.answers:
            raise DataError(
                f"{path}: is the score of other answers, those of {given['file']}; choose another --output, remove the "
                "file, or pass --overwrite."
            )
        judge = before["settings"].get("judge")
        if asked.judge is not None and _scored(before) and judge != asked.judge:
            raise DataError(
                f"{path}: was graded by {judge_name(judge)}, but this run's judge is {judge_name(asked.judge)}, and "
                f"grades of two judges do not compare; {remedy}"
            )

    def _remove(self, paths: Sequence[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)  # another job may remove it too
        if paths and not _merge_all(self.folder):
            (self.folder / RESULTS_FILE).unlink(missing_ok=True)


def _merge_all(folder: Path) -> dict[str, Any]:
    """Write `results.json` and return what it holds. Without any score nothing is written, and {} returned."""
    while True:
        files = _score_files(folder)
        if not files:
            return {}
        results = _merge(files)
        write_json(folder / RESULTS_FILE, results)
        if _score_files(folder) == files:  # otherwise another job has finished a task meanwhile: read again
            return results


def read_results(path: str | Path, *kinds: str) -> dict[str, Any]:
    """Read the results of a folder, or a `results.json`.

    Args:
        kinds: what they may be: KIND (the default), HELD_OUT_KIND.

    Raises:
        DataError: no such file, or one of another kind.
    """
    path = Path(path)
    is_folder = os.path.isdir(path)  # unlike Path.is_dir, it takes every name
    files = _score_files(path) if is_folder else []
    if files:
        return _merge(files)
    return read_file(path / RESULTS_FILE if is_folder else path, *(kinds or (KIND,)))


def other_official_n(entry: Entry) -> int | None:
    """How many questions the published files hold; None where the entry has as many, or a limit, or nobody knows."""
    published: int | None = entry.get("official_n")
    return None if entry["limit"] or published in (None, entry["n"]) else published


def _score_file(folder: Path, task: str) -> Path:
    return folder / SCORES_FOLDER / f"{task}.json"


def _entry(folder: Path, task: str) -> Entry | None:
    """What `folder` holds of a task."""
    path = _score_file(folder, task)
    found: Entry | None = read_file(path, KIND)["tasks"].get(task) if path.exists() else None
    return found


def _scored(entry: Entry) -> bool:
    return entry["metrics"][entry["headline"]]["value"] is not None


def judge_name(judge: Entry | None) -> str:
    """Who graded, in words."""
    if judge is None:
        return "a judge that is not named"
    words = f"{judge['model']} with {'the official' if judge['official_prompt'] else 'our'} prompt"
    own = [f"{key} {judge[key]}" for key in ("max_tokens", "runs") if key in judge]
    return " and ".join([words, *own])


def unparsed_words(entry: Entry, count: str) -> str:
    """`count`, and behind it what unparsed answers count as, where that is not wrong."""
    counted_as = entry.get("unparsed_as", "wrong")
    return count if not entry["unparsed"] or counted_as == "wrong" else f"{count}, counted as {counted_as}"


def _score_files(folder: Path) -> list[Path]:
    return sorted((folder / SCORES_FOLDER).glob("*.json"))


def _merge(files: Sequence[Path]) -> dict[str, Any]:
    records = {path.stem: read_file(path, KIND) for path in files}
    # A copy that somebody keeps under another name is not that task's result.
    tasks = {name: record["tasks"][name] for name, record in records.items() if name in record["tasks"]}
    return {**next(iter(records.values())), "tasks": tasks}


def read_file(path: Path, *kinds: str) -> dict[str, Any]:
    """A file of results.

    Raises:
        DataError: no such file, not JSON, or results of another kind than `kinds`.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no results there ({error}); `llava-mocle eval` writes them.") from error
    found = results.get("kind") if isinstance(results, dict) else None
    if found not in kinds:
        raise DataError(
            f"{path}: holds results of kind {found!r}, but {' or '.join(map(repr, kinds))} are needed here: benchmarks "
            "and held-out rows cannot share a folder. Choose another one (--output)."
        )
    return results


def check_model(path: Path, kind: str, model_id: str) -> None:
    """Raises DataError: the results in a file are another model's."""
    found = read_file(path, kind)["model_id"]
    if found != model_id:
        raise DataError(
            f"{path}: is of the model {found}, but this run's is {model_id}; choose another --output, or pass "
            "--overwrite, which removes the other model's scores."
        )


def write_json(path: Path, value: Entry) -> None:
    """Write a file of results at once."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
