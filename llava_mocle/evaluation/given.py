"""Scoring answers that another system wrote: no model is loaded, and nothing is asked."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from llava_mocle.errors import ConfigError, DataError
from llava_mocle.evaluation.answering.file import make_answer
from llava_mocle.evaluation.answering.given_file import Given, read_given
from llava_mocle.evaluation.answering.match import match_given
from llava_mocle.evaluation.answering.question import check_questions
from llava_mocle.evaluation.scores.results import Asked, BenchmarkResults
from llava_mocle.evaluation.suite import GENERATION, SuiteSettings, submit_and_score
from llava_mocle.evaluation.task import Item, Task
from llava_mocle.io.paths import why_missing

ENDINGS = (".jsonl", ".json", ".csv", ".tsv")


def given_model_id(answers: Path, name: str | None) -> str:
    """What `results.json` has for the model: its name (default: that of the file or folder), and no fingerprint."""
    return f"{name or answers.resolve().stem}@given"


def score_given(
    tasks: Sequence[Task],
    answers: str | Path,
    root: str | Path,
    out_dir: str | Path,
    settings: SuiteSettings | None = None,
    *,
    model_name: str | None = None,
    key: str | None = None,
    results: BenchmarkResults | None = None,
) -> dict[str, Any]:
    """Score a file of answers; writes `submissions/<task>/` and `results.json`.

    All answers of all tasks are found before the first score. Images are not needed, except for MME, where they tell
    the questions' ids.

    Args:
        answers: a file, where there is one task; or a folder with `<task>.jsonl`, .json, .csv or .tsv.
        settings: `limit`, `prompts` and `overwrite` count.
        model_name: who wrote the answers; default: the name of the file or folder.
        key: where a record has its answer, see `read_given`.
        results: where the scores go; default: `BenchmarkResults` in `out_dir`.

    Returns:
        What `results.json` holds.

    Raises:
        ConfigError: a task whose candidates are ranked by likelihood.
        DataError: no such file, or answers that do not fit the questions, see `match_given`.
    """
    settings, source, folder = settings or SuiteSettings(), Path(answers), Path(out_dir)
    if (reason := why_missing(source)) is not None:
        raise DataError(f"--answers {str(source)!a:.200}: {reason}; expected a file of answers, or a folder of them.")
    model_id = given_model_id(source, model_name)
    results = results or BenchmarkResults(folder, model_id, str(source), overwrite=settings.overwrite)
    prepared = []
    for task in tasks:
        path = _file_of(source, task, alone=len(tasks) == 1)
        items, found = _matched(task, path, Path(root), settings, key)
        about: dict[str, Any] = {
            "file": str(path),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "n": len(found),
        }
        prepared.append((task, items, found, about))
    results.prepare(
        [Asked(task.name, len(items), task.judged_by(items), about["sha256"]) for task, items, _, about in prepared]
    )
    recorded: dict[str, Any] = {}
    for task, items, found, about in prepared:
        records = [
            make_answer(item.question.question_id, item.question.prompt, one.text, model_id)
            for item, one in zip(items, found, strict=True)
        ]
        entry = submit_and_score(task, items, records, folder, settings.limit)
        entry |= {"answers": about, "settings": _settings_of(task, items, settings)}
        recorded = results.record(task, items, records, entry) or recorded
    return recorded


def _settings_of(task: Task, items: Sequence[Item], settings: SuiteSettings) -> dict[str, Any]:
    """The `settings` of an entry; how the other system was asked is not known."""
    unknown = dict.fromkeys(("batch_size", "dataset", "predictor", *GENERATION))
    return unknown | {"limit": settings.limit, "prompts": settings.prompts, "judge": task.judged_by(items)}


def _file_of(source: Path, task: Task, *, alone: bool) -> Path:
    if not source.is_dir():
        if not alone:
            raise ConfigError(
                f"--answers {source}: is one file, but there are several tasks; give a folder with <task>.jsonl in it."
            )
        return source
    found = [path for path in (source / f"{task.name}{ending}" for ending in ENDINGS) if path.is_file()]
    if len(found) != 1:
        raise DataError(
            f"{source}: holds {len(found)} files named {task.name} with one of the endings {', '.join(ENDINGS)}; "
            "expected one."
        )
    return found[0]


def _matched(
    task: Task, path: Path, root: Path, settings: SuiteSettings, key: str | None
) -> tuple[list[Item], list[Given]]:
    given = read_given(path, key)
    items = task.unshown_items(root, settings.prompts)
    if not items:
        raise DataError(f"{task.name}: found no question in its files below {root}; fetch them again.")
    if any(item.question.candidates for item in items):
        raise ConfigError(
            f"--answers {path}: {task.name} ranks candidates by their likelihood with --prompts {settings.prompts}, "
            "and a text has none; leave this benchmark out, or choose prompts with which it is answered in words."
        )
    check_questions([item.question for item in items], images=False)
    found = match_given(
        given,
        [item.question for item in items],
        path,
        settings.limit,
        lambda number, target: _is_right(items[number], target),
    )
    return items[: settings.limit], found


def _is_right(item: Item, target: str) -> bool | None:
    """Whether a text is the reference, where that is one text or the index of an option; None where it is neither."""
    said = target.strip().lower()
    if isinstance(item.reference, str):
        return said == item.reference.strip().lower()
    options = item.keys.get("options")
    if isinstance(item.reference, int) and options:
        right = (ascii_uppercase[item.reference], str(item.reference), str(options[item.reference]))
        return said in [text.strip().lower() for text in right]
    return None
