"""Scores on disk: one file a task, so that jobs side by side do not meet, and `results.json` with all of them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.provenance import command, versions

KIND = "benchmarks"
SCORES_FOLDER = "scores"
RESULTS_FILE = "results.json"


def check_results(folder: Path, model_id: str, *, overwrite: bool) -> None:
    """Before the first answer: whether scores of this model may go into `folder`.

    Raises:
        DataError: it holds another model's scores (removed with `overwrite`), or results of another kind.
    """
    results = folder / RESULTS_FILE
    if results.is_file():
        _read(results)
    for path in _score_files(folder):
        found = _read(path)["model_id"]
        if found != model_id:
            if not overwrite:
                raise DataError(
                    f"{path}: is of the model {found}, but this run's is {model_id}; choose another --output, or pass "
                    "--overwrite, which removes the other model's scores."
                )
            path.unlink()


def record_scores(folder: Path, task: str, entry: Mapping[str, Any], model_id: str, model: str) -> dict[str, Any]:
    """Write one task's scores, and `results.json` with those of all tasks so far, which is returned."""
    whole = dict(entry) | {"versions": versions(), "command": command()}
    record = {"kind": KIND, "model": model, "model_id": model_id, "tasks": {task: whole}}
    _write(folder / SCORES_FOLDER / f"{task}.json", record)
    results: dict[str, Any] = {}
    # Another job may have finished a task meanwhile.
    while set(results.get("tasks", ())) != {path.stem for path in _score_files(folder)}:
        results = _merge(folder)
        _write(folder / RESULTS_FILE, results)
    return results


def read_results(path: str | Path) -> dict[str, Any]:
    """Read the results of a folder, or a `results.json`.

    Raises:
        DataError: no such file, or one of another kind.
    """
    path = Path(path)
    if path.is_dir() and _score_files(path):
        return _merge(path)
    return _read(path / RESULTS_FILE if path.is_dir() else path)


def _score_files(folder: Path) -> list[Path]:
    return sorted((folder / SCORES_FOLDER).glob("*.json"))


def _merge(folder: Path) -> dict[str, Any]:
    records = [_read(path) for path in _score_files(folder)]
    tasks = {name: entry for record in records for name, entry in record["tasks"].items()}
    return {**records[0], "tasks": tasks}


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
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, path)
