"""Held-out rows of one's own datasets: exact match, with the baselines that make the number mean something.

Each dataset (domain) is a task. A row's first question is asked, with the images that it shows, and the answer to it is
the reference. A first turn by gpt is left out, as in training. Two baselines look at no image: the majority answer (the
most frequent training answer, given to every question), and the question prior (the most frequent training answer to
the same question text).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.data.conversation import IMAGE_TOKEN, shown_images, written_turns
from llava_mocle.data.row_problems import first_problem
from llava_mocle.data.row_table import RowTable
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import GenerationSettings, Question, check_id
from llava_mocle.evaluation.answering.together import Part
from llava_mocle.evaluation.metrics.normalize import exact_match, normalize_answer
from llava_mocle.evaluation.scores.provenance import command, items_digest, versions
from llava_mocle.evaluation.scores.results import (
    HELD_OUT_KIND,
    RESULTS_FILE,
    Asked,
    BenchmarkResults,
    check_model,
    read_file,
    write_json,
)
from llava_mocle.evaluation.scores.statistics import bootstrap_interval
from llava_mocle.evaluation.suite import GENERATION, SuiteSettings, evaluate_tasks, plain_metric, score_clusters
from llava_mocle.evaluation.task import Answers, Item, Metric, Task
from llava_mocle.io.folders import make_folder
from llava_mocle.io.paths import why_no_file_name

if TYPE_CHECKING:
    from llava_mocle.inference import Predictor

Row = Mapping[str, Any]


def evaluate_rows(
    predictor: "Predictor",
    domains: Mapping[str, tuple[Sequence[Row], str | Path]],
    out_dir: str | Path,
    settings: SuiteSettings | None = None,
    *,
    train_rows: Mapping[str, Sequence[Row]] | None = None,
    part: Part | None = None,
) -> dict[str, Any]:
    """Answer and score the held-out rows of each domain; writes `answers/<domain>.jsonl` and `results.json`.

    Args:
        domains: name -> (held-out rows in LLaVA's format, folder that their image paths start from).
        settings: its `dataset` is by default the domain's own name.
        train_rows: name -> rows from which the baselines are taken; without them there are no baselines.
        part: which part of the questions this process answers; default: all.

    Returns:
        What `results.json` holds: `domains` (name -> score, interval, n, unparsed, majority, question_prior, clusters),
        `clusters` (over all domains), `mean` (of the domains' scores), `metric`, `generation`, `versions`, `command`.
        Empty where this process only answers.

    Raises:
        DataError: before the first answer: rows without id, or that training would refuse too (no answer to the first
            question, images that disagree with the `<image>` marks ...), missing images, no rows at all, or benchmarks'
            results in `out_dir`; or answers of another model.
        TasksFailed: as `evaluate_tasks`; `results.json` is not written then.
    """
    limit = settings.limit if settings else None
    tasks = [
        HeldOutRows(name, rows[:limit], root, (train_rows or {}).get(name), predictor.routing_text)
        for name, (rows, root) in domains.items()
    ]
    overwrite = settings is not None and settings.overwrite
    results = HeldOutResults(Path(out_dir), predictor.model_id, str(predictor.path), len(tasks), overwrite=overwrite)
    return evaluate_tasks(predictor, tasks, "", out_dir, settings, part=part, results=results)


class HeldOutRows(Task):
    """The held-out rows of one domain.

    Args:
        name: the domain's; it becomes a file name.
        image_root: the folder that image paths start from.
        train_rows: where the baselines come from; None: no baselines.
        routing_text: row -> the text that chooses its cluster.

    Raises:
        DataError: a name that cannot be a file's, or a training row that training would refuse.
    """

    split = "held-out rows"
    metric = "exact match after lower-casing and dropping punctuation and articles"
    sources = ()
    max_new_tokens = 32

    def __init__(
        self,
        name: str,
        rows: Sequence[Row],
        image_root: str | Path = "",
        train_rows: Sequence[Row] | None = None,
        routing_text: Callable[[Row], str | None] | None = None,
    ) -> None:
        if (trouble := why_no_file_name(name)) is not None:
            raise DataError(
                f"Domain {name!r}: the name {trouble}; it becomes a file's. Rename the dataset, or the file."
            )
        self.name = self.title = name
        self.rows = rows
        self.image_root = image_root
        self.routing_text = routing_text
        self.priors = None if train_rows is None else answer_priors(train_rows)

    def generation(self, prompts: str) -> GenerationSettings:
        """Rows have prompts of their own, and no style."""
        return GenerationSettings(self.max_new_tokens)

    def check(self, root: Path) -> None:
        if not len(self.rows):
            raise DataError(f"{self.name}: there are no held-out rows to ask; leave this domain out, or add rows.")

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        for number, row in enumerate(self.rows):
            place = f"{self.name}, row {number}"
            if isinstance(row, Mapping):
                require_id(row, place)
            if (problem := first_problem(row, number)) is not None:
                raise DataError(f"{self.name}, {problem.describe()}")
            question, answer = written_turns(row)[:2]
            images = tuple(Path(self.image_root, name) for name in shown_images(row)[0])
            route_text = row.get("route_text") if self.routing_text is None else self.routing_text(row)
            asked = Question(row["id"], question.text, images, route_text, dataset=self.name, source=place)
            yield Item(asked, answer.text)

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        return answer["text"] if normalize_answer(answer["text"]) else None

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """Means from 0 to 1, as `results.json` has always had them, and not in percent."""
        texts = {"exact_match": [text or "" for text in said]}
        if self.priors is not None:
            majority, by_question = self.priors
            texts["majority"] = [majority] * len(items)
            texts["question_prior"] = [by_question.get(question_text(item.question.prompt), majority) for item in items]
        metrics = {}
        for name, given in texts.items():
            right = [exact_match(text, item.reference) for text, item in zip(given, items, strict=True)]
            metrics[name] = Metric(sum(right) / len(right), bootstrap_interval(right), len(right), tuple(right))
        return metrics


class HeldOutResults(BenchmarkResults):
    """`results.json` of a run on held-out rows, written once all `count` domains are scored."""

    def __init__(self, folder: Path, model_id: str, model: str, count: int, *, overwrite: bool) -> None:
        super().__init__(folder, model_id, model, overwrite=overwrite)
        self.path = folder / RESULTS_FILE
        self.count = count
        self.domains: dict[str, Any] = {}
        self.items: list[Item] = []
        self.answers: list[Mapping[str, Any]] = []

    def prepare(self, asked: Sequence[Asked]) -> None:
        """Refuse to replace benchmarks' results and, without `overwrite`, another model's. Raises DataError."""
        make_folder(self.folder)
        if self.path.is_file():
            read_file(self.path, HELD_OUT_KIND)
            if not self.overwrite:
                check_model(self.path, HELD_OUT_KIND, self.model_id)

    def record(self, task: Any, items: Sequence[Item], answers: Answers, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Keep one domain's scores; write and return the results after the last one, and {} before."""
        self.domains[task.name] = _domain(task, items, entry)
        if "answers" in entry:  # another system's
            self.domains[task.name]["answers"] = entry["answers"]
        self.items += items
        self.answers += answers
        if len(self.domains) < self.count:
            return {}
        scores = [domain["score"] for domain in self.domains.values()]
        settings = entry["settings"]
        generation = asdict(GenerationSettings(**{name: settings[name] for name in GENERATION}))
        pool = HeldOutRows("all", [])
        whole = plain_metric(pool.score(self.items, self.answers).metrics["exact_match"])
        results = {
            "kind": HELD_OUT_KIND,
            "metric": task.metric,
            "model": self.model,
            "model_id": self.model_id,
            "mean": sum(scores) / len(scores),
            "domains": self.domains,
            "clusters": _clusters(score_clusters(pool, self.items, self.answers, "exact_match"), whole),
            "generation": generation | {"batch_size": settings["batch_size"]},
            "limit": settings["limit"],
            "versions": versions(),
            "command": command(),
        }
        write_json(self.path, results)
        return results


def _domain(task: HeldOutRows, items: Sequence[Item], entry: Mapping[str, Any]) -> dict[str, Any]:
    """One domain's entry of `results.json`."""
    metrics = entry["metrics"]
    asked = [(item.question.question_id, item.question.prompt, item.reference) for item in items]
    return _summary(metrics["exact_match"]) | {
        "unparsed": entry["unparsed"],
        "majority": None if task.priors is None else {"answer": task.priors[0]} | _summary(metrics["majority"]),
        "question_prior": None if task.priors is None else _summary(metrics["question_prior"]),
        "clusters": _clusters(entry["clusters"], metrics["exact_match"]),
        "item_scores": metrics["exact_match"]["items"],
        "items_digest": items_digest(asked),
    }


def _clusters(clusters: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    """Cluster id -> summary; `none` -> that of the whole for a model without clusters."""
    return {cluster: _summary(metric) for cluster, metric in (clusters or {"none": whole}).items()}


def _summary(metric: Mapping[str, Any]) -> dict[str, Any]:
    return {"n": metric["n"], "score": metric["value"], "interval": metric["interval"]}


def require_id(row: Row, place: str) -> None:
    """Raise DataError unless a row has an id that answers can carry.

    Args:
        place: the row's file and number, for the message.
    """
    if "id" not in row:
        raise DataError(f"{place}: no 'id'; a held-out row needs one, so that its answer can be found again.")
    check_id(row["id"], place, "id")


def answer_priors(train_rows: Sequence[Row]) -> tuple[str, dict[str, str]]:
    """The most frequent training answer, and the most frequent one per question text.

    Ties go to the answer that comes first in the alphabet, so that the baselines don't depend on the order of rows.

    Raises:
        DataError: no rows, or a row that training would refuse.
    """
    overall: Counter[str] = Counter()
    by_question: dict[str, Counter[str]] = {}
    for number, row in enumerate(train_rows):
        # A table's rows were checked when it was made. Images are not looked at: the baselines use none.
        if not isinstance(train_rows, RowTable) and (problem := first_problem(row, number, ("image count",))):
            raise DataError(f"training {problem.describe()}")
        asked, answered = written_turns(row)[:2]
        answer = normalize_answer(answered.text)
        overall[answer] += 1
        by_question.setdefault(question_text(asked.text), Counter())[answer] += 1
    if not overall:
        raise DataError("The training rows that give the majority answer are empty: leave them out, or add rows.")
    return _most_frequent(overall), {question: _most_frequent(counts) for question, counts in by_question.items()}


def question_text(prompt: str) -> str:
    """A prompt without its image marks, for telling whether two rows ask the same."""
    return " ".join(prompt.replace(IMAGE_TOKEN, " ").split())


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))
