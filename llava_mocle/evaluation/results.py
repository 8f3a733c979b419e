"""Scores on disk: one file a task, so that jobs side by side do not meet, and `results.json` with all of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.provenance import command, versions
from llava_mocle.files import write_text

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


def remove_other_models(folder: Path, model_id: str) -> None:
    """Remove the scores of every other model."""
    for path, _ in _of_other_models(folder, model_id):
        path.unlink(missing_ok=True)  # several jobs may do so


def record_scores(folder: Path, task: str, entry: Mapping[str, Any], model_id: str, model: str) -> dict[str, Any]:
    """Write one task's scores, and `results.json` with those of all tasks so far, which is returned."""
    whole = dict(entry) | {"versions": versions(), "command": command()}
    record = {"kind": KIND, "model": model, "model_id": model_id, "tasks": {task: whole}}
    _write(folder / SCORES_FOLDER / f"{task}.json", record)
    while True:
        files = _score_files(folder)
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
