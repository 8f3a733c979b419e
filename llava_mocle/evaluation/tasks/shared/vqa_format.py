"""What the benchmarks in VQA's file format share.

questions: {"data_subtype": "val2014", "questions": [{"image_id": 42, "question": "Is it day?", "question_id": 42000}]}
annotations: {"annotations": [{"question_id": 42000, "image_id": 42, "answer_type": "yes/no",
              "answers": [{"answer": "yes", "answer_confidence": "yes", "answer_id": 1}]}]}
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.data.official_files import (
    ID,
    annotated,
    coco_image,
    field,
    field_or,
    json_records,
    places,
    read_json,
)
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.textvqa import normalize_evalai
from llava_mocle.evaluation.metrics.vqa import accuracies, min_over_three, vqa_accuracy
from llava_mocle.evaluation.prompt_styles import short_question
from llava_mocle.evaluation.task import Item, Metric, accuracy_by, mean_metric

VQA_SCORER = "vqaEval.py"  # `Task.scorers` of the tasks with `vqa_metrics`
VQA_METRIC = "mean over leave-one-out sets of min(n / 3, 1), as VQA's own vqaEval.py compares texts"


def vqa_items(
    questions: Path, annotations: Path | None, images: Path, image_prefix: str, prompts: str, subtype: str
) -> Iterator[Item]:
    """Items of a questions file, in its order.

    Args:
        annotations: None where the answers are kept from us; `reference` is then None.
        images: folder of the images, which are named as COCO's.
        image_prefix: what stands before the image's number, such as "COCO_val2014_".
        subtype: what the questions file's `data_subtype` starts with, if it has one.

    Raises:
        DataError: a file of another split, or a question without annotation.
    """
    data = read_json(questions)
    found = data.get("data_subtype", subtype) if isinstance(data, dict) else subtype
    if not str(found).startswith(subtype):
        raise DataError(f"{questions}: data_subtype is {found!r}, expected {subtype!r}: the file of another split.")
    known = _annotations(annotations) if annotations else {}
    for place, record in places(questions, field(data, "questions", str(questions))):
        question_id = field(record, "question_id", place, ID)
        if annotations and question_id not in known:
            raise DataError(f"{place}: question {question_id} has no annotation in {annotations}; is it of this split?")
        prompt = short_question(field(record, "question", place, str), prompts)
        question = Question(question_id, prompt, (coco_image(images, image_prefix, record, place),), source=place)
        reference, answer_type = known.get(question_id, (None, None))
        yield Item(question, reference, {"answer_type": answer_type})


def given_answers(record: Mapping[str, Any], place: str) -> tuple[dict[str, str], ...]:
    """What each annotator answered: `answer`, and `raw_answer` where the file has it."""
    return tuple(
        {key: field(given, key, place, str) for key in ("answer", "raw_answer") if key == "answer" or key in given}
        for given in annotated(record, "answers", place, dict)
    )


def _annotations(path: Path) -> dict[Any, tuple[tuple[dict[str, str], ...], str]]:
    """Question id -> (answers, answer type)."""
    found = {}
    for place, record in json_records(path, "annotations"):
        answer_type = field_or(record, "answer_type", place, str, "other")
        found[field(record, "question_id", place, ID)] = (given_answers(record, place), answer_type)
    return found


def given_texts(items: Sequence[Item], key: str = "answer") -> list[list[str]]:
    """What the annotators of each item answered."""
    return [[given[key] for given in item.reference] for item in items]


def _uploaded_accuracy(answer: str, annotations: Sequence[str]) -> float:
    return vqa_accuracy(normalize_evalai(answer), annotations)


def vqa_metrics(items: Sequence[Item], said: Sequence[str | None], types: Sequence[str] = ()) -> dict[str, Metric]:
    """`accuracy`: VQA's official one (`vqa_accuracy`) of the answers as they are; two others follow.

    `accuracy_upload` is the official one of the answers as LLaVA uploads them, under EvalAI's normaliser: the official
    code finds "Yes" wrong where all ten wrote "yes", and LLaVA's answers have capitals. `accuracy_min3` is
    min(n / 3, 1) over all annotators, both sides normalised.

    Args:
        types: answer types that get an official accuracy of their own.
    """
    annotations = given_texts(items)
    values = accuracies(vqa_accuracy, annotations, said)
    metrics = {
        "accuracy": mean_metric(values),
        "accuracy_upload": mean_metric(accuracies(_uploaded_accuracy, annotations, said)),
        "accuracy_min3": mean_metric(accuracies(min_over_three, annotations, said)),
    }
    return metrics | accuracy_by(items, values, "answer_type", types)
