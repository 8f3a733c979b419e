"""Held-out exact match per domain, with the baselines that make the number mean something.

A row's first question is asked and its first answer is the reference. Scores stand beside the majority answer (the most
frequent training answer given to every question) and the question prior (the most frequent training answer to the same
question text, which no model needs an image for).
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.data.conversation import IMAGE_TOKEN
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.parts import Shard
from llava_mocle.evaluation.answering.run import GenerationSettings, Question, check_questions
from llava_mocle.evaluation.answering.together import answer_shared
from llava_mocle.evaluation.metrics.normalize import exact_match, normalize_answer
from llava_mocle.evaluation.scores.provenance import command, items_digest, versions
from llava_mocle.evaluation.scores.statistics import bootstrap_interval
from llava_mocle.io.files import write_text

if TYPE_CHECKING:
    from llava_mocle.inference import Predictor

Row = Mapping[str, Any]
KIND = "held_out_exact_match"
METRIC = "exact match after lower-casing and dropping punctuation and articles"


def evaluate_rows(
    predictor: "Predictor",
    domains: Mapping[str, tuple[Sequence[Row], str | Path]],
    out_dir: str | Path,
    batch_size: int = 8,
    max_new_tokens: int = 32,
    *,
    train_rows: Mapping[str, Sequence[Row]] | None = None,
    limit: int | None = None,
    num_beams: int = 1,
    overwrite: bool = False,
    dataset: str | None = None,
    shard: Shard | None = None,
) -> dict[str, Any]:
    """Answer and score the held-out rows of each domain; write `answers/<domain>.jsonl` and `results.json`.

    Args:
        domains: name -> (held-out rows in LLaVA's format, folder that their image paths start from).
        train_rows: name -> rows from which the baselines are taken; without them there are no baselines.
        limit: only the first rows of each domain.
        dataset: for a model routed by dataset: whose expert answers; default: that of the domain's own name.
        shard: the part of the questions that this process answers.

    Returns:
        What `results.json` holds: `domains` (name -> score, interval, n, unparsed, majority, question_prior, clusters),
        `clusters` (over all domains), `mean` (of the domains' scores), `metric`, `generation`, `versions`, `command`.
        Empty where this process only answers.

    Raises:
        DataError: rows without id, question or reference, missing images, answers of another model, or benchmarks'
            results in `out_dir`.
    """
    shard = shard or Shard()
    folder = Path(out_dir)
    settings = GenerationSettings(max_new_tokens=max_new_tokens, num_beams=num_beams)
    _check_kind(folder / "results.json")
    items = _checked_items(predictor, domains, limit, dataset)
    priors = {name: answer_priors(rows) for name, rows in (train_rows or {}).items() if name in items}
    answered: dict[str, Sequence[Mapping[str, Any]]] = {}
    for name, (questions, _) in items.items():
        file = folder / "answers" / f"{name}.jsonl"
        options: dict[str, Any] = {"batch_size": batch_size, "settings": settings, "description": name}
        answered[name] = answer_shared(predictor, questions, file, shard, overwrite=overwrite, **options) or []
    if not shard.joins:
        return {}
    scored_domains: dict[str, Any] = {}
    pooled: list[tuple[Any, float]] = []
    for name, (_, references) in items.items():
        scored_domains[name], scored = _score_domain(answered[name], references, priors.get(name))
        pooled += scored
    run = {"generation": asdict(settings) | {"batch_size": batch_size}, "limit": limit}
    results = _results(predictor, scored_domains, pooled) | run | {"versions": versions(), "command": command()}
    write_text(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return results


def _results(
    predictor: "Predictor", scored_domains: Mapping[str, Any], pooled: Sequence[tuple[Any, float]]
) -> dict[str, Any]:
    scores = [domain["score"] for domain in scored_domains.values() if domain["n"]]
    return {
        "kind": KIND,
        "metric": METRIC,
        "model": str(predictor.path),
        "model_id": predictor.model_id,
        "mean": sum(scores) / len(scores) if scores else None,
        "domains": dict(scored_domains),
        "clusters": _by_cluster(pooled),
    }


def row_question(
    row: Row,
    image_root: str | Path,
    place: str,
    predictor: "Predictor | None" = None,
    dataset: str | None = None,
) -> Question:
    """The question that a LLaVA row asks first, routed by the same text as in training.

    Raises:
        DataError: the row has no `id` or no human turn.
    """
    if "id" not in row:
        raise DataError(f"{place}: no 'id'; a held-out row needs one, so that its answer can be found again.")
    images = row.get("image") or []
    names = [images] if isinstance(images, str) else list(images)
    return Question(
        question_id=row["id"],
        prompt=_first_turn(row, "human", place),
        images=tuple(Path(image_root) / name for name in names),
        route_text=predictor.routing_text(row) if predictor is not None else row.get("route_text"),
        dataset=dataset,
        source=place,
    )


def reference_answer(row: Row, place: str = "row") -> str:
    """The first assistant turn. Raises DataError where there is none, or an empty one."""
    return _first_turn(row, "gpt", place)


def answer_priors(train_rows: Sequence[Row]) -> tuple[str, dict[str, str]]:
    """The most frequent training answer, and the most frequent one per question text.

    Ties go to the answer that comes first in the alphabet, so that the baselines don't depend on the order of rows.
    """
    overall: Counter[str] = Counter()
    by_question: dict[str, Counter[str]] = {}
    for number, row in enumerate(train_rows):
        answer = normalize_answer(reference_answer(row, f"training row {number}"))
        overall[answer] += 1
        by_question.setdefault(question_text(_first_turn(row, "human", f"training row {number}")), Counter())[
            answer
        ] += 1
    if not overall:
        raise DataError(
            "The training rows that the majority answer is taken from are empty: leave them out or mend them."
        )
    return _most_frequent(overall), {question: _most_frequent(counts) for question, counts in by_question.items()}


def question_text(prompt: str) -> str:
    """A prompt without its image marks, for telling whether two rows ask the same."""
    return " ".join(prompt.replace(IMAGE_TOKEN, " ").split())


def _checked_items(
    predictor: "Predictor",
    domains: Mapping[str, tuple[Sequence[Row], str | Path]],
    limit: int | None,
    dataset: str | None,
) -> dict[str, tuple[list[Question], list[str]]]:
    """All domains are checked before the first answer, so that bad input never costs work already done."""
    _check_file_names(domains)
    items = {
        name: _domain_items(name, rows[:limit], root, predictor, dataset or name)
        for name, (rows, root) in domains.items()
    }
    for questions, _ in items.values():
        check_questions(questions)
    return items


def _domain_items(
    name: str, rows: Sequence[Row], image_root: str | Path, predictor: "Predictor", dataset: str
) -> tuple[list[Question], list[str]]:
    """Questions and references of a domain's rows."""
    places = [f"{name}, row {number}" for number in range(len(rows))]
    questions = [
        row_question(row, image_root, place, predictor, dataset=dataset)
        for row, place in zip(rows, places, strict=True)
    ]
    return questions, [reference_answer(row, place) for row, place in zip(rows, places, strict=True)]


def _score_domain(
    answers: Sequence[Mapping[str, Any]], references: Sequence[str], priors: tuple[str, dict[str, str]] | None
) -> tuple[dict[str, Any], list[tuple[Any, float]]]:
    scores = [exact_match(answer["text"], ref) for answer, ref in zip(answers, references, strict=True)]
    scored = [(a["metadata"].get("cluster_id"), score) for a, score in zip(answers, scores, strict=True)]
    result = summarize(scores) | {
        "unparsed": sum(not normalize_answer(answer["text"]) for answer in answers),
        "majority": None,
        "question_prior": None,
        "clusters": _by_cluster(scored),
        # One number an item, in order, and a digest of the items: a paired comparison of two runs needs both.
        "item_scores": " ".join(f"{score:g}" for score in scores),
        "items_digest": items_digest(
            [(answer["question_id"], answer["prompt"], ref) for answer, ref in zip(answers, references, strict=True)]
        ),
    }
    if priors is not None:
        majority, by_question = priors
        guesses = [by_question.get(question_text(answer["prompt"]), majority) for answer in answers]
        matches = [exact_match(guess, ref) for guess, ref in zip(guesses, references, strict=True)]
        result["question_prior"] = summarize(matches)
        result["majority"] = {"answer": majority} | summarize([exact_match(majority, ref) for ref in references])
    return result, scored


def summarize(scores: Sequence[float]) -> dict[str, Any]:
    """`n`, mean `score` and its 95 % bootstrap `interval` (None where there are no items)."""
    if not scores:
        return {"n": 0, "score": None, "interval": None}
    return {"n": len(scores), "score": sum(scores) / len(scores), "interval": list(bootstrap_interval(scores))}


def _by_cluster(scored: Sequence[tuple[Any, float]]) -> dict[str, Any]:
    """Cluster id (as text, `none` for a model without clusters) -> summary, in the order of the ids."""
    groups: dict[Any, list[float]] = {}
    for cluster, score in scored:
        groups.setdefault(cluster, []).append(score)
    ordered = sorted(groups, key=lambda cluster: -1 if cluster is None else cluster)
    return {"none" if cluster is None else str(cluster): summarize(groups[cluster]) for cluster in ordered}


def _first_turn(row: Row, role: str, place: str) -> str:
    conversations = row.get("conversations")
    for turn in conversations if isinstance(conversations, list) else []:
        if isinstance(turn, Mapping) and turn.get("from") == role and str(turn.get("value", "")).strip():
            return str(turn["value"])
    raise DataError(
        f"{place} (id {row.get('id')!r}): no {role!r} turn with text in 'conversations'; a held-out row needs a "
        f"question and a reference answer."
    )


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _check_file_names(domains: Mapping[str, Any]) -> None:
    for name in domains:
        if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
            raise DataError(f"Domain {name!r}: the name becomes a file name; use letters, digits, '_', '-' and '.'.")


def _check_kind(path: Path) -> None:
    """Benchmarks' results are not this run's to replace."""
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("kind") if path.is_file() else KIND
    except (OSError, ValueError, AttributeError):
        kind = None
    if kind != KIND:
        raise DataError(f"{path}: holds results of kind {kind!r}, and rows give {KIND!r}; choose another --output.")
