"""Running benchmarks: questions, answers, scores; in one process or in shards."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.errors import DataError, UserError
from llava_mocle.evaluation.answering.parts import PartnerLost, Shard, describe_failure
from llava_mocle.evaluation.answering.run import GenerationSettings, check_questions
from llava_mocle.evaluation.answering.together import answer_shared
from llava_mocle.evaluation.scores.provenance import items_digest
from llava_mocle.evaluation.scores.results import check_replacement, check_results, record_scores, remove_scores
from llava_mocle.evaluation.task import Item, Metric, Task
from llava_mocle.evaluation.tasks.shared.judge import JudgedTask

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

    def new_tokens(self, task: Task) -> int:
        """How long the task's answers may be."""
        return self.max_new_tokens or task.max_new_tokens


class TasksFailed(UserError):
    """Some benchmarks could not be answered or scored; the others were.

    Attributes:
        results: what `results.json` holds.
    """

    def __init__(self, message: str, results: dict[str, Any]) -> None:
        super().__init__(message)
        self.results = results


def evaluate_tasks(
    predictor: "Predictor",
    tasks: Sequence[Task],
    root: str | Path,
    out_dir: str | Path,
    settings: SuiteSettings | None = None,
    *,
    shard: Shard | None = None,
) -> dict[str, Any]:
    """Answer and score benchmarks; writes `answers/<task>.jsonl`, `submissions/<task>/` and `results.json`.

    Every task's files and questions are checked before the first answer. A task is scored as soon as it is answered,
    and one that fails costs nothing of the others.

    Args:
        root: LLaVA's playground/data/eval.
        shard: the part of the questions that this process answers.

    Returns:
        What `results.json` holds, of all tasks scored into `out_dir` so far; empty where this process only answers.

    Raises:
        TasksFailed: after all others were done, whatever exception each of these failed with.
        Exception: that of a single task.
        PartnerLost: a process that runs together with this one is gone.
        UserError: before the first answer: missing or wrong files, no questions, or scores in `out_dir` that are
            another model's or judge's, or of more questions.
    """
    settings, shard, root, folder = settings or SuiteSettings(), shard or Shard(), Path(root), Path(out_dir)
    prepared = shard.together(lambda: _prepare(predictor, tasks, root, folder, settings, shard))
    results: dict[str, Any] = {}
    failures: dict[str, str] = {}  # not the exceptions, whose frames would hold on to tensors
    for task, items in prepared:
        try:
            answers = _answer(predictor, task, items, folder, settings, shard)
            if answers is not None:
                results = _record(predictor, task, items, answers, folder, settings)
        except PartnerLost:
            raise
        except Exception as error:
            if len(tasks) == 1:
                raise
            failures[task.name] = describe_failure(error)
            logger.error("%s failed: %s", task.name, failures[task.name], exc_info=not isinstance(error, UserError))
    if failures:
        again = "the same command without --overwrite" if settings.overwrite else "the same command"
        lines = [f"{len(failures)} of {len(tasks)} benchmarks failed; {again} goes on with them:"]
        raise TasksFailed("\n  ".join([*lines, *(f"{name}: {error}" for name, error in failures.items())]), results)
    return results


def _prepare(
    predictor: "Predictor", tasks: Sequence[Task], root: Path, folder: Path, settings: SuiteSettings, shard: Shard
) -> list[tuple[Task, list[Item]]]:
    for task in tasks:
        task.check(root)
    # One of the processes that run together does this for all; chunks started by hand each on their own.
    answers_for_itself = shard.joins or not shard.in_company
    if answers_for_itself:
        check_results(folder, predictor.model_id, overwrite=settings.overwrite)
    prepared = [(task, _items(task, root, settings)) for task in tasks]
    for task, items in prepared:
        check_questions([item.question for item in items])
        if answers_for_itself and not settings.overwrite:
            check_replacement(folder, task.name, len(items), _judge(task, items))
        published = task.published_n(len(items))
        if shard.index == 0 and settings.limit is None and published not in (None, len(items)):
            logger.warning(
                "%s: its files hold %d questions, but the published ones %d; numbers do not compare with published "
                "ones.",
                task.name,
                len(items),
                published,
            )
    if answers_for_itself and settings.overwrite:
        remove_scores(folder, predictor.model_id, [task.name for task in tasks])
    return prepared


def _items(task: Task, root: Path, settings: SuiteSettings) -> list[Item]:
    items = task.items(root, settings.prompts)[: settings.limit]
    if not items:
        files = ", ".join(str(root / source.path) for source in task.sources if source.needed)
        raise DataError(f"{task.name}: found no question in {files}, expected those of {task.split}; fetch them again.")
    if settings.dataset is None:
        return items
    return [replace(item, question=replace(item.question, dataset=settings.dataset)) for item in items]


def _answer(
    predictor: "Predictor", task: Task, items: Sequence[Item], folder: Path, settings: SuiteSettings, shard: Shard
) -> list[dict[str, Any]] | None:
    return answer_shared(
        predictor,
        [item.question for item in items],
        folder / "answers" / f"{task.name}.jsonl",
        shard,
        batch_size=settings.batch_size,
        settings=GenerationSettings(max_new_tokens=settings.new_tokens(task), num_beams=settings.num_beams),
        overwrite=settings.overwrite,
        description=task.name,
    )


def _record(
    predictor: "Predictor",
    task: Task,
    items: Sequence[Item],
    answers: Sequence[Mapping[str, Any]],
    folder: Path,
    settings: SuiteSettings,
) -> dict[str, Any]:
    """Submission files first: a judge that can't be reached costs none."""
    files = task.submission(items, answers, folder / "submissions" / task.name)
    entry = score_task(task, items, answers, limit=settings.limit)
    entry["submission"] = [str(path.relative_to(folder)) for path in files]
    entry["settings"] = _effective(predictor, task, items, settings)
    return record_scores(folder, task.name, entry, predictor.model_id, str(predictor.path))


def _effective(predictor: "Predictor", task: Task, items: Sequence[Item], settings: SuiteSettings) -> dict[str, Any]:
    """The settings as they came out for a task, under the names that its answers carry."""
    given = asdict(replace(settings, max_new_tokens=settings.new_tokens(task)))
    del given["overwrite"]
    return given | {"predictor": predictor.settings, "judge": _judge(task, items)}


def _judge(task: Task, items: Sequence[Item]) -> dict[str, Any] | None:
    return task.judged_by(items) if isinstance(task, JudgedTask) else None


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
        "official_n": task.published_n(len(items)),
        "limit": limit,
        "items_digest": _digest(items),
        "unparsed": scores.unparsed,
        "metrics": metrics,
        "cluster_metric": task.cluster_metric or scores.headline,
        "clusters": _by_cluster(task, items, answers, task.cluster_metric or scores.headline),
    }


def _digest(items: Sequence[Item]) -> str:
    asked = [(item.question, item.reference) for item in items]
    return items_digest([(q.question_id, q.prompt, q.candidates, reference) for q, reference in asked])


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
