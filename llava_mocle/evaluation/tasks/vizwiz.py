"""VizWiz-VQA: photos and questions of blind people; some can't be answered. Val is scored here, test by the server.

{"image": "VizWiz_val_00000000.jpg", "question": "What does this label say?",
 "answers": [{"answer": "unanswerable", "answer_confidence": "yes"}], "answer_type": "unanswerable", "answerable": 0}
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.metrics.textvqa import normalize_evalai
from llava_mocle.evaluation.metrics.vqa import min_over_three, soft_accuracy
from llava_mocle.evaluation.official import field, places, read_json
from llava_mocle.evaluation.runner import Question
from llava_mocle.evaluation.task import SHORT_ANSWER, Item, Metric, Scores, Source, Task, mean_metric
from llava_mocle.evaluation.tasks.annotators import annotated
from llava_mocle.evaluation.tasks.prompt_styles import check_style, short_question
from llava_mocle.evaluation.tasks.uploads import write_upload
from llava_mocle.evaluation.tasks.vqa_style import accuracies, by_answer_type

ANSWER_TYPES = ("yes/no", "number", "other", "unanswerable")
INSUFFICIENT = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
ORIGIN = "vizwiz.org, Visual Question Answering, Annotations.zip"


class VizWiz(Task):
    """Test: an upload for the server, no score here."""

    name = "vizwiz"
    title = "VizWiz"
    split = "test"
    metric = "VQA accuracy, by the server: EvalAI challenge 1911 (Gurari et al., 2018)"
    sources = (
        Source("vizwiz/test.json", "questions", ORIGIN),
        Source("vizwiz/test", "images", "vizwiz.org, test.zip"),
    )

    def items(self, root: Path, prompts: str = "llava") -> list[Item]:
        """See `Task`. An image has one question, and its name is the question's id."""
        return vizwiz_items(root / "vizwiz/test.json", root / "vizwiz/test", prompts, answered=False)

    def score(self, items: Sequence[Item], answers: Sequence[Mapping[str, Any]]) -> Scores:
        """No score: the answers are not published."""
        metrics = {"accuracy": Metric(None, None, 0, ())}
        return Scores("accuracy", metrics, unparsed=sum(not answer["text"].strip() for answer in answers))

    def submission(self, items: Sequence[Item], answers: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
        """The upload, answers normalised as LLaVA does."""
        upload = [
            {"image": item.question.question_id, "answer": normalize_evalai(answer["text"])}
            for item, answer in zip(items, answers, strict=True)
        ]
        return [write_upload(folder / "vizwiz_test.json", upload)]


class VizWizVal(Task):
    """Val: scored here as the server scores test."""

    name = "vizwiz_val"
    title = "VizWiz val"
    split = "val"
    metric = "VQA accuracy: min(n / 3, 1), mean over ten leave-one-out sets (Gurari et al., 2018)"
    sources = (
        Source("vizwiz/val.json", "questions and answers", ORIGIN),
        Source("vizwiz/val", "images", "vizwiz.org, val.zip"),
    )

    def items(self, root: Path, prompts: str = "llava") -> list[Item]:
        """See `Task`."""
        return vizwiz_items(root / "vizwiz/val.json", root / "vizwiz/val", prompts, answered=True)

    def score(self, items: Sequence[Item], answers: Sequence[Mapping[str, Any]]) -> Scores:
        """See `Task`. `accuracy_min3` counts all ten annotators at once, as VQAv2's local score does."""
        values = accuracies(soft_accuracy, items, answers)
        metrics = {
            "accuracy": mean_metric(values),
            "accuracy_min3": mean_metric(accuracies(min_over_three, items, answers)),
        } | by_answer_type(items, values, ANSWER_TYPES)
        return Scores("accuracy", metrics, unparsed=sum(not answer["text"].strip() for answer in answers))


def vizwiz_items(path: Path, images: Path, prompts: str, answered: bool) -> list[Item]:
    """Items of an annotations file, which is a list."""
    check_style(prompts)
    records = read_json(path)
    if not isinstance(records, list):
        raise DataError(f"{path}: a {type(records).__name__}, expected a list, as in the VQA task's Annotations.zip.")
    made = []
    for place, record in places(path, records):
        image, text = field(record, "image", place), field(record, "question", place)
        # The model may say that it can't tell only where it was told so: LLaVA's line for this benchmark.
        prompt = text + INSUFFICIENT + SHORT_ANSWER if prompts == "llava" else short_question(text, prompts)
        question = Question(image, prompt, images=(images / image,), source=place)
        reference, keys = None, {}
        if answered:
            reference = annotated(field(record, "answers", place), "answers", place)
            for given in reference:
                field(given, "answer", place)
            keys = {"answer_type": field(record, "answer_type", place)}
        made.append(Item(question, reference, keys))
    return made
