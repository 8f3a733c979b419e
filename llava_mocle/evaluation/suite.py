"""Running benchmarks: questions, answers, scores, `results.json`; in one process or in shards."""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.errors import UserError
from llava_mocle.evaluation.provenance import command, versions
from llava_mocle.evaluation.runner import GenerationSettings, answer_questions, check_questions, split_chunks
from llava_mocle.evaluation.shards import Shard, join_shards
from llava_mocle.evaluation.task import Item, Metric, Scores, Task

if TYPE_CHECKING:
    from llava_mocle.inference import Predictor

logger = logging.getLogger(__name__)

KIND = "benchmarks"


@dataclass(frozen=True)
class SuiteSettings:
    """How benchmarks are run.

    Attributes:
        limit: only the first questions of each; the scores then say so.
        prompts: "llava" or "instructblip", see `Task.items`.
        max_new_tokens: None: each task's own.
    """

    limit: int | None = None
    batch_size: int = 8
    num_beams: int = 1
    prompts: str = "llava"
    max_new_tokens: int | None = None
    overwrite: bool = False


def evaluate_tasks(
    predictor: "Predictor",
    tasks: Sequence[Task],
    root: str | Path,
    out_dir: str | Path,
    settings: SuiteSettings | None = None,
    *,
    shard: Shard | None = None,
    all_answered: Callable[[], Any] = lambda: None,
    score: bool = True,
) -> dict[str, Any]:
    """Answer and score benchmarks; writes `answers/<task>.jsonl`, `submissions/<task>/` and `results.json`.

    Every task's files and questions are checked before the first answer. A task is scored as soon as it is answered,
    and a later one that fails costs nothing of it.

    Args:
        root: LLaVA's playground/data/eval.
        shard: the part of the questions that this process answers.
        all_answered: waits for the other shards; called after each task's own part is answered.
        score: False on processes that only answer.

    Returns:
        What `results.json` holds, of all tasks scored into `out_dir` so far; empty where `score` is False.

    Raises:
        UserError: missing or wrong files, answers of another model, and so on.
    """
    settings, shard, root, folder = settings or SuiteSettings(), shard or Shard(), Path(root), Path(out_dir)
    for task in tasks:
        task.check(root)
    prepared = [(task, task.items(root, settings.prompts)[: settings.limit]) for task in tasks]
    for _, items in prepared:
        check_questions([item.question for item in items])
    results: dict[str, Any] = {}
    for task, items in prepared:
        answers = _answer(predictor, task, items, folder, settings, shard, all_answered, score)
        if score:
            entry = score_task(task, items, answers, limit=settings.limit)
            files = task.submission(items, answers, folder / "submissions" / task.name)
            entry["submission"] = [str(path.relative_to(folder)) for path in files]
            results = _record(predictor, folder, task, entry, settings)
        all_answered()
    return results


def _answer(
    predictor: "Predictor",
    task: Task,
    items: Sequence[Item],
    folder: Path,
    settings: SuiteSettings,
    shard: Shard,
    all_answered: Callable[[], Any],
    score: bool,
) -> list[dict[str, Any]]:
    questions = [item.question for item in items]
    whole = folder / "answers" / f"{task.name}.jsonl"
    generation = GenerationSettings(
        max_new_tokens=settings.max_new_tokens or task.max_new_tokens, num_beams=settings.num_beams
    )
    options: dict[str, Any] = {"batch_size": settings.batch_size, "settings": generation, "description": task.name}
    if shard.count > 1 and (settings.overwrite or not whole.exists()):
        part = split_chunks(questions, shard.count, shard.index)
        answer_questions(predictor, part, shard.answers_file(whole), overwrite=settings.overwrite, **options)
        all_answered()
        if score and settings.overwrite:
            whole.unlink(missing_ok=True)
    if not score:
        return []
    joined = join_shards(whole, questions)
    overwrite = settings.overwrite and not joined
    return answer_questions(predictor, questions, whole, overwrite=overwrite, **options)


def score_task(
    task: Task, items: Sequence[Item], answers: Sequence[Mapping[str, Any]], *, limit: int | None = None
) -> dict[str, Any]:
    """One task's entry of `results.json`: its metrics with intervals, unparsed answers, and the headline a cluster."""
    scores = task.score(items, answers)
    metrics = {name: _plain(metric) for name, metric in scores.metrics.items()}
    return {
        "title": task.title,
        "split": task.split,
        "metric": task.metric,
        "headline": scores.headline,
        "n": len(items),
        "limit": limit,
        "unparsed": scores.unparsed,
        "metrics": metrics,
        "clusters": _by_cluster(task, items, answers, scores),
        "paper": dict(task.paper),
    }


def _plain(metric: Metric) -> dict[str, Any]:
    plain = asdict(metric) | {"interval": list(metric.interval) if metric.interval else None}
    # One number an item, in order: a paired comparison of two runs needs them.
    plain["items"] = None if metric.items is None else " ".join(f"{value:g}" for value in metric.items)
    return plain


def _by_cluster(
    task: Task, items: Sequence[Item], answers: Sequence[Mapping[str, Any]], scores: Scores
) -> dict[str, Any]:
    groups: dict[str, list[int]] = {}
    for index, answer in enumerate(answers):
        cluster = answer["metadata"].get("cluster_id")
        if cluster is not None:
            groups.setdefault(str(cluster), []).append(index)
    found = {}
    for cluster, rows in sorted(groups.items(), key=lambda pair: int(pair[0])):
        part = task.score([items[row] for row in rows], [answers[row] for row in rows])
        metric = part.metrics[scores.headline]
        found[cluster] = {"n": len(rows), "value": metric.value, "interval": list(metric.interval or ()) or None}
    return found


def _record(
    predictor: "Predictor", folder: Path, task: Task, entry: Mapping[str, Any], settings: SuiteSettings
) -> dict[str, Any]:
    path = folder / "results.json"
    results = read_results(path) if path.is_file() else {}
    if results.get("model_id") != predictor.model_id:
        results = {"kind": KIND, "model": str(predictor.path), "model_id": predictor.model_id, "tasks": {}}
    results["tasks"][task.name] = dict(entry)
    results |= {"settings": asdict(replace(settings, overwrite=False)), "versions": versions(), "command": command()}
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, path)
    return results


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a `results.json` of benchmarks.

    Raises:
        UserError: no such file, or one of another kind.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no results there ({error}); `llava-mocle eval --tasks ...` writes them.") from error
    if not isinstance(results, dict) or results.get("kind") != KIND:
        kind = results.get("kind") if isinstance(results, dict) else None
        raise UserError(f"{path}: holds results of kind {kind!r}; `llava-mocle eval --tasks ...` writes {KIND!r}.")
    return results
