"""Running benchmarks: questions, answers, scores; in one process or in shards."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.evaluation.answers import read_answers
from llava_mocle.evaluation.results import check_results, record_scores
from llava_mocle.evaluation.runner import GenerationSettings, answer_questions, check_questions, split_chunks
from llava_mocle.evaluation.shards import Shard, join_shards, remove_shards
from llava_mocle.evaluation.task import Item, Metric, Task

if TYPE_CHECKING:
    from llava_mocle.inference import Predictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SuiteSettings:
    """How benchmarks are run.

    Attributes:
        limit: only the first questions of each; the scores then say so.
        prompts: "llava" or "instructblip", see `Task.items`.
        max_new_tokens: None: each task's own.
        dataset: the training dataset that every question takes the expert of, for models routed by dataset.
    """

    limit: int | None = None
    batch_size: int = 8
    num_beams: int = 1
    prompts: str = "llava"
    max_new_tokens: int | None = None
    dataset: str | None = None
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
    if score:
        check_results(folder, predictor.model_id, overwrite=settings.overwrite)
    prepared = [(task, _items(task, root, settings)) for task in tasks]
    for _, items in prepared:
        check_questions([item.question for item in items])
    results: dict[str, Any] = {}
    for task, items in prepared:
        answers = _answer(predictor, task, items, folder, settings, shard, all_answered, score)
        if score:
            entry = score_task(task, items, answers, limit=settings.limit)
            files = task.submission(items, answers, folder / "submissions" / task.name)
            entry["submission"] = [str(path.relative_to(folder)) for path in files]
            entry["settings"] = asdict(replace(settings, overwrite=False))
            results = record_scores(folder, task.name, entry, predictor.model_id, str(predictor.path))
        all_answered()
    return results


def _items(task: Task, root: Path, settings: SuiteSettings) -> list[Item]:
    items = task.items(root, settings.prompts)[: settings.limit]
    if settings.dataset is None:
        return items
    return [replace(item, question=replace(item.question, dataset=settings.dataset)) for item in items]


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
    if not score or shard.count > 1:
        # A whole file that lacks answers (of an earlier --limit) is left aside: sharing the rest out is not worth it.
        if settings.overwrite or not (whole.exists() and len(read_answers(whole)) >= len(questions)):
            part = split_chunks(questions, shard.count, shard.index)
            file = shard.answers_file(whole, len(questions))
            answer_questions(predictor, part, file, overwrite=settings.overwrite, **options)
        all_answered()
        if not score:
            return []
        join_shards(whole, questions, predictor.model_id, shard.count)
        return answer_questions(predictor, questions, whole, **options)
    if settings.overwrite:
        remove_shards(whole)
    else:
        join_shards(whole, questions, predictor.model_id)
    return answer_questions(predictor, questions, whole, overwrite=settings.overwrite, **options)


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
        "cluster_metric": task.cluster_metric or scores.headline,
        "clusters": _by_cluster(task, items, answers, task.cluster_metric or scores.headline),
    }


def _plain(metric: Metric) -> dict[str, Any]:
    plain = asdict(metric) | {"interval": list(metric.interval) if metric.interval else None}
    # One number an item, in order: a paired comparison of two runs needs them.
    plain["items"] = None if metric.items is None else " ".join(f"{value:g}" for value in metric.items)
    return plain


def _by_cluster(task: Task, items: Sequence[Item], answers: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    groups: dict[str, list[int]] = {}
    for index, answer in enumerate(answers):
        cluster = answer["metadata"].get("cluster_id")
        if cluster is not None:
            groups.setdefault(str(cluster), []).append(index)
    found = {}
    for cluster, rows in sorted(groups.items(), key=lambda pair: int(pair[0])):
        part = task.score([items[row] for row in rows], [answers[row] for row in rows]).metrics.get(metric)
        if part is not None:
            found[cluster] = {"n": part.n, "value": part.value, "interval": list(part.interval or ()) or None}
    return found
