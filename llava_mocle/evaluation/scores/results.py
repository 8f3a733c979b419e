"""Scores on disk: one file a task, so that jobs side by side do not meet, and `results.json` with all of them."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.scores.provenance import command, versions
from llava_mocle.io.files import write_text

logger = logging.getLogger(__name__)

KIND = "benchmarks"
SCORES_FOLDER = "scores"
RESULTS_FILE = "results.json"


def check_results(folder: Path, model_id: str, *, overwrite: bool) -> None:
    """Before the first answer: whether scores of this model may go into `folder`.

    Raises:
        DataError: it holds another model's scores (allowed with `overwrite`), or results of another kind.
    """
    results = folder / RESULTS_FILE
    if results.is_file():
        _read(results)
    others = _of_other_models(folder, model_id)
    if others and not overwrite:
        path, found = others[0]
        raise DataError(
            f"{path}: is of the model {found}, but this run's is {model_id}; choose another --output, or pass "
            "--overwrite, which removes the other model's scores."
        )


def check_replacement(folder: Path, task: str, n: int, judge: Mapping[str, Any] | None) -> None:
    """Before the first answer: whether a run's score of `task` may take the place of the one in `folder`.

    Args:
        n: how many questions the run asks.
        judge: who grades its answers; None: nobody, or the task needs no judge.

    Raises:
        DataError: the score there is of more questions, or by another judge.
    """
    path, before = _score_file(folder, task), _entry(folder, task)
    if before is None:
        return
    remedy = "choose another --output, remove the file, or pass --overwrite, which answers all questions anew."
    if before["n"] > n:
        raise DataError(f"{path}: is the score of {before['n']} questions, but this run asks {n}; {remedy}")
    found = _judge(before)
    if judge is not None and _scored(before) and found != judge:
        raise DataError(
            f"{path}: was graded by {_judge_name(found)}, but this run's judge is {_judge_name(judge)}, and grades of "
            f"two judges do not compare; {remedy}"
        )


def remove_scores(folder: Path, model_id: str, tasks: Sequence[str]) -> None:
    """Remove the scores of these tasks, and of every other model; `results.json` follows."""
    paths = [path for path, _ in _of_other_models(folder, model_id)]
    paths += [path for path in (_score_file(folder, task) for task in tasks) if path.exists()]
    for path in paths:
        path.unlink(missing_ok=True)  # several jobs may do so
    if paths and not _merge_all(folder):
        (folder / RESULTS_FILE).unlink(missing_ok=True)


def record_scores(folder: Path, task: str, entry: Mapping[str, Any], model_id: str, model: str) -> dict[str, Any]:
    """Write one task's scores, and `results.json` with those of all tasks so far, which is returned.

    A score that is there already is not replaced by an entry without one.
    """
    before = _entry(folder, task)
    if before is not None and _scored(before) and not _scored(entry):
        logger.warning(
            "%s: nothing was scored this time, so %s keeps the score of %d questions, graded by %s.",
            task,
            _score_file(folder, task),
            before["n"],
            _judge_name(_judge(before)),
        )
    else:
        whole = dict(entry) | {"versions": versions(), "command": command()}
        record = {"kind": KIND, "model": model, "model_id": model_id, "tasks": {task: whole}}
        _write(_score_file(folder, task), record)
    return _merge_all(folder)


def _merge_all(folder: Path) -> dict[str, Any]:
    """Write `results.json`, and return it; empty, and nothing written, where there is no score."""
    while True:
        files = _score_files(folder)
        if not files:
            return {}
        results = _merge(files)
        _write(folder / RESULTS_FILE, results)
        if _score_files(folder) == files:  # otherwise another job has finished a task meanwhile
            return results


def read_results(path: str | Path) -> dict[str, Any]:
    """Read the results of a folder, or a `results.json`.

    Raises:
        DataError: no such file, or one of another kind.
    """
    path = Path(path)
    files = _score_files(path) if path.is_dir() else []
    if files:
        return _merge(files)
    return _read(path / RESULTS_FILE if path.is_dir() else path)


def other_official_n(entry: Mapping[str, Any]) -> int | None:
    """How many questions the published files hold, where a task's entry, without a limit, is of another number."""
    published: int | None = entry.get("official_n")
    return None if entry["limit"] or published in (None, entry["n"]) else published


def _score_file(folder: Path, task: str) -> Path:
    return folder / SCORES_FOLDER / f"{task}.json"


def _entry(folder: Path, task: str) -> Mapping[str, Any] | None:
    """What `folder` holds of a task."""
    path = _score_file(folder, task)
    found: Mapping[str, Any] | None = _read(path)["tasks"].get(task) if path.exists() else None
    return found


def _scored(entry: Mapping[str, Any]) -> bool:
    return entry["metrics"][entry["headline"]]["value"] is not None


def _judge(entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = entry["settings"].get("judge")
    return found


def _judge_name(judge: Mapping[str, Any] | None) -> str:
    if judge is None:
        return "a judge that is not named"
    return f"{judge['model']} with {'the official' if judge['official_prompt'] else 'our'} prompt"


def _score_files(folder: Path) -> list[Path]:
    return sorted((folder / SCORES_FOLDER).glob("*.json"))


def _of_other_models(folder: Path, model_id: str) -> list[tuple[Path, str]]:
    found = [(path, _read(path)["model_id"]) for path in _score_files(folder) if path.exists()]
    return [(path, model) for path, model in found if model != model_id]


def _merge(files: Sequence[Path]) -> dict[str, Any]:
    records = {path.stem: _read(path) for path in files}
    # A copy that somebody keeps under another name is not that task's result.
    tasks = {name: record["tasks"][name] for name, record in records.items() if name in record["tasks"]}
    return {**next(iter(records.values())), "tasks": tasks}


def _read(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no results there ({error}); `llava-mocle eval --tasks ...` writes them.") from error
    kind = results.get("kind") if isinstance(results, dict) else None
    if kind != KIND:
        raise DataError(
            f"{path}: holds results of kind {kind!r}, and `llava-mocle eval --tasks` writes {KIND!r}; choose another "
            "--output."
        )
    return results


def _write(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
