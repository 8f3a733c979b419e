"""The evaluation pipeline: a task's questions, their answers, its scores.

`evaluate_tasks` is the whole way. Benchmarks and held-out rows (`tasks/held_out.py`) both go through it:

    Task.items -> answer_together -> Task.submission -> score_task (Task.score) -> record, which writes results.json
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.data.conversation import IMAGE_TOKEN
from llava_mocle.errors import DataError, UserError
from llava_mocle.evaluation.answering.lengths import check_lengths
from llava_mocle.evaluation.answering.parts import part_of
from llava_mocle.evaluation.answering.question import GenerationSettings, check_questions
from llava_mocle.evaluation.answering.together import Part, PartnerLost, answer_together, describe_failure
from llava_mocle.evaluation.scores.provenance import items_digest
from llava_mocle.evaluation.scores.results import Asked, BenchmarkResults
from llava_mocle.evaluation.task import Answers, Item, Metric, Task

if TYPE_CHECKING:
    from llava_mocle.inference import Predictor

logger = logging.getLogger(__name__)

# Below the output folder: a file of answers for each task.
ANSWERS_FOLDER = "answers"
# What `SuiteSettings` may change of a task's `GenerationSettings`.
GENERATION = ("max_new_tokens", "num_beams", "length_penalty", "repetition_penalty")


@dataclass(frozen=True)
class SuiteSettings:
    """How tasks are run.

    Attributes:
        limit: only the first questions of each; the scores then say so.
        prompts: "llava" or "instructblip", see `Task.items`.
        num_beams, length_penalty, repetition_penalty, max_new_tokens: None: each task's own (`Task.generation`).
        dataset: the training dataset whose expert answers every question, for models routed by dataset.
        overwrite: answer and score everything anew.
        skip_unaskable: what cannot be asked gets an empty answer, see `answer_questions`.
    """

    limit: int | None = None
    batch_size: int = 8
    num_beams: int | None = None
    prompts: str = "llava"
    max_new_tokens: int | None = None
    dataset: str | None = None
    overwrite: bool = False
    skip_unaskable: bool = False
    length_penalty: float | None = None
    repetition_penalty: float | None = None

    def generation(self, task: Task) -> GenerationSettings:
        """How the task's answers are generated."""
        asked = {name: getattr(self, name) for name in GENERATION}
        made = replace(
            task.generation(self.prompts), **{key: value for key, value in asked.items() if value is not None}
        )
        # A task's own length penalty is for its own beams.
        return replace(made, length_penalty=1.0) if made.num_beams == 1 and self.length_penalty is None else made


class TasksFailed(UserError):
    """Some tasks could not be answered or scored; the others were.

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
    part: Part | None = None,
    results: BenchmarkResults | None = None,
) -> dict[str, Any]:
    """Answer and score tasks; writes `answers/<task>.jsonl`, `submissions/<task>/` and `results.json`.

    Every task's files and questions are checked before the first answer. A task is scored as soon as it is answered. If
    one fails, the others are still answered and scored.

    Args:
        root: LLaVA's playground/data/eval.
        part: which part of the questions this process answers; default: all.
        results: where the scores go; default: `BenchmarkResults` in `out_dir`.

    Returns:
        What `results.json` holds, of all tasks scored into `out_dir` so far; empty where this process only answers.

    Raises:
        TasksFailed: some of several tasks failed; the others were scored before. The message has each one's error.
        Exception: there is only one task, and this is its error.
        PartnerLost: a process that runs together with this one is gone.
        UserError: before the first answer: files are missing or wrong, there are no questions, or `out_dir` holds
            scores that may not be replaced (see `BenchmarkResults.prepare`).
    """
    settings, part, folder = settings or SuiteSettings(), part or Part(), Path(out_dir)
    results = results or BenchmarkResults(folder, predictor.model_id, str(predictor.path), overwrite=settings.overwrite)
    prepared = part.together(lambda: _prepare(predictor, tasks, Path(root), settings, part, results))
    recorded: dict[str, Any] = {}
    failures: dict[str, str] = {}  # not the exceptions, whose frames would keep tensors in memory
    for task, items in prepared:
        try:
            recorded = _run(predictor, task, items, folder, settings, part, results) or recorded
        except PartnerLost:
            raise
        except Exception as error:
            if len(tasks) == 1:
                raise
            failures[task.name] = describe_failure(error)
            logger.error("%s failed: %s", task.name, failures[task.name], exc_info=not isinstance(error, UserError))
    if failures:
        again = "the same command without --overwrite" if settings.overwrite else "the same command"
        lines = [f"{len(failures)} of {len(tasks)} tasks failed; {again} goes on with them:"]
        raise TasksFailed("\n  ".join([*lines, *(f"{name}: {error}" for name, error in failures.items())]), recorded)
    return recorded


def _run(
    predictor: "Predictor",
    task: Task,
    items: Sequence[Item],
    folder: Path,
    settings: SuiteSettings,
    part: Part,
    results: BenchmarkResults,
) -> dict[str, Any]:
    """Answer and score one task; returns what `results.json` now holds, {} where another process scores."""
    answers = answer_together(
        predictor,
        [item.question for item in items],
        folder / ANSWERS_FOLDER / f"{task.name}.jsonl",
        part,
        batch_size=settings.batch_size,
        settings=settings.generation(task),
        overwrite=settings.overwrite,
        skip_unaskable=settings.skip_unaskable,
        description=task.name,
    )
    if answers is None:
        return {}
    entry = submit_and_score(task, items, answers, folder, settings.limit)
    entry["skipped"] = sum("skipped" in answer["metadata"] for answer in answers)
    if entry["skipped"]:
        logger.warning("%s: %d questions could not be asked and have an empty answer.", task.name, entry["skipped"])
    # The settings that took effect, under the names that the answers carry.
    generation = settings.generation(task)
    effective = asdict(settings) | {name: getattr(generation, name) for name in GENERATION}
    del effective["overwrite"], effective["skip_unaskable"]
    entry["settings"] = effective | {"predictor": predictor.settings, "judge": task.judged_by(items)}
    return results.record(task, items, answers, entry)


def _prepare(
    predictor: "Predictor",
    tasks: Sequence[Task],
    root: Path,
    settings: SuiteSettings,
    part: Part,
    results: BenchmarkResults,
) -> list[tuple[Task, list[Item]]]:
    for task in tasks:
        task.check(root)
    prepared = [(task, _items(task, root, settings)) for task in tasks]
    for task, items in prepared:
        questions = [item.question for item in items]
        check_questions(questions)
        # Of processes that run together, each looks at its share.
        own = part_of(questions, part.count, part.index) if part.has_partners else questions
        check_lengths(predictor, own, skip=settings.skip_unaskable)
        published = task.published_n(len(items))
        if part.index == 0 and settings.limit is None and published not in (None, len(items)):
            logger.warning(
                "%s: its files hold %d questions, but the published ones hold %d; scores do not compare with published "
                "scores.",
                task.name,
                len(items),
                published,
            )
    # Of processes that run together, one does this for all; each part that is started by hand does it by itself.
    if part.joins or not part.has_partners:
        results.prepare([Asked(task.name, len(items), task.judged_by(items)) for task, items in prepared])
    return prepared


def _items(task: Task, root: Path, settings: SuiteSettings) -> list[Item]:
    items = task.items(root, settings.prompts)[: settings.limit]
    if not items:
        files = ", ".join(str(root / source.path) for source in task.sources if source.needed)
        raise DataError(f"{task.name}: found no question in {files}, expected those of {task.split}; fetch them again.")
    if settings.dataset is None:
        return items
    return [replace(item, question=replace(item.question, dataset=settings.dataset)) for item in items]


def submit_and_score(
    task: Task, items: Sequence[Item], answers: Answers, folder: Path, limit: int | None
) -> dict[str, Any]:
    """Write a task's submission files, and return its entry of `results.json`."""
    # Submission files first: they are there even if a judge cannot be reached.
    files = task.submission(items, answers, folder / "submissions" / task.name)
    entry = score_task(task, items, answers, limit=limit)
    entry["submission"] = [str(path.relative_to(folder)) for path in files]
    return entry


def score_task(task: Task, items: Sequence[Item], answers: Answers, *, limit: int | None = None) -> dict[str, Any]:
    """One task's entry of `results.json`: its metrics with intervals, unparsed answers, each cluster's headline."""
    scores = task.score(items, answers)
    cluster_metric = task.cluster_metric or scores.headline
    # Marks in front of a prompt stand for nothing: without them, the images are in front as well.
    asked = [
        (q.unique_id, q.prompt.replace(f"{IMAGE_TOKEN}\n", ""), q.candidates, item.reference)
        for item, q in ((item, item.question) for item in items)
    ]
    return {
        "title": task.title,
        "split": task.split,
        "metric": task.metric,
        "scorer": task.scorer(items),
        "headline": scores.headline,
        "n": len(items),
        "official_n": task.published_n(len(items)),
        "limit": limit,
        "items_digest": items_digest(asked),
        "unparsed": scores.unparsed,
        "unparsed_as": task.unparsed_as,
        "metrics": {name: plain_metric(metric) for name, metric in scores.metrics.items()},
        "cluster_metric": cluster_metric,
        "clusters": score_clusters(task, items, answers, cluster_metric),
    }


def plain_metric(metric: Metric) -> dict[str, Any]:
    """A metric as JSON. `items` is one text with one number per item, in order, for paired comparisons of runs."""
    plain = asdict(metric) | {"interval": list(metric.interval) if metric.interval else None}
    plain["items"] = None if metric.items is None else " ".join(f"{value:g}" for value in metric.items)
    return plain


def score_clusters(task: Task, items: Sequence[Item], answers: Answers, metric: str) -> dict[str, Any]:
    """One metric for each cluster (its id as a text, in order); empty for a model without clusters."""
    groups: dict[int, list[int]] = {}
    for index, answer in enumerate(answers):
        cluster = answer["metadata"].get("cluster_id")
        if cluster is not None:
            groups.setdefault(int(cluster), []).append(index)
    found = {}
    for cluster, rows in sorted(groups.items()):
        own = task.score([items[row] for row in rows], [answers[row] for row in rows]).metrics.get(metric)
        if own is not None:
            found[str(cluster)] = {"n": own.n, "value": own.value, "interval": list(own.interval or ()) or None}
    return found
