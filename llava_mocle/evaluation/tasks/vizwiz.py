"""VizWiz-VQA: photos and questions of blind people; some can't be answered. Val is scored here, test by the server.

{"image": "VizWiz_val_00000000.jpg", "question": "What does this label say?",
 "answers": [{"answer": "unanswerable", "answer_confidence": "yes"}], "answer_type": "unanswerable", "answerable": 0}
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.data.official_files import field, json_records
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.textvqa import normalize_evalai, textvqa_accuracy
from llava_mocle.evaluation.metrics.vqa import UNPARSED_AS, accuracies, min_over_three, vizwiz_api_accuracy
from llava_mocle.evaluation.prompt_styles import SHORT_ANSWER, short_question
from llava_mocle.evaluation.task import Answers, Files, Item, Metric, Source, Task, accuracy_by, mean_metric
from llava_mocle.evaluation.tasks.shared.vqa_format import given_answers, given_texts

SPLITS = ("train", "val", "test")
ANSWER_TYPES = ("yes/no", "number", "other", "unanswerable")
INSUFFICIENT = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
ORIGIN = "vizwiz.org, Visual Question Answering, Annotations.zip"


class _VizWizSplit(Task):
    """What both splits share."""

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        """An image has one question, and its name is the question's key. Those of test have no answers."""
        folder, split = root / "vizwiz", self.split
        path = folder / f"{split}.json"
        for place, record in json_records(path):
            image, text = field(record, "image", place, str), field(record, "question", place, str)
            if any(image.startswith(f"VizWiz_{other}_") for other in SPLITS if other != split):
                raise DataError(f"{place}: image is {image!r}, expected one of {split}: the file of another split.")
            # The model may say that it can't tell only where it was told so: LLaVA's line for this benchmark.
            prompt = text + INSUFFICIENT + SHORT_ANSWER if prompts == "llava" else short_question(text, prompts)
            number = re.fullmatch(rf"VizWiz_{split}_(\d{{8}})\.\w+", image, re.ASCII)
            question_id = int(number.group(1)) if number else image  # as in LLaVA's question file
            question = Question(question_id, prompt, (folder / split / image,), source=place, key=image)
            reference, keys = None, {}
            if split != "test":
                reference = given_answers(record, place)
                keys = {"answer_type": field(record, "answer_type", place, str)}
            yield Item(question, reference, keys)


class VizWiz(_VizWizSplit):
    """Test: an upload for the server, no score here."""

    name = "vizwiz"
    title = "VizWiz"
    split = "test"
    metric = "VQA accuracy, by the server: EvalAI challenge 1911 (Gurari et al., 2018)"
    sources = (
        Source("vizwiz/test.json", "questions", ORIGIN),
        Source("vizwiz/test", "images", "vizwiz.org, test.zip"),
    )
    official_n = 8000

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """No score: the answers are not published."""
        return {"accuracy": Metric(None, None, 0, ())}

    def submission_files(self, items: Sequence[Item], answers: Answers) -> Files:
        """The upload, answers normalised as LLaVA does."""
        said = zip(items, (normalize_evalai(answer["text"]) for answer in answers), strict=True)
        return {"vizwiz_test.json": [{"image": item.question.key, "answer": text} for item, text in said]}


class VizWizVal(_VizWizSplit):
    """Val: scored as lmms-eval scores it, and as VizWiz' own API does. What test's server runs is not known to us."""

    name = "vizwiz_val"
    title = "VizWiz val"
    split = "val"
    metric = "mean over leave-one-out sets of min(n / 3, 1), EvalAI's normaliser, as lmms-eval (Gurari et al., 2018)"
    scorers = ("lmms-eval",)
    unparsed_as = UNPARSED_AS
    sources = (
        Source("vizwiz/val.json", "questions and answers", ORIGIN),
        Source("vizwiz/val", "images", "vizwiz.org, val.zip"),
    )
    official_n = 4319

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """`accuracy_api` is the number of VizWiz' own API; `accuracy_min3` counts all ten annotators at once."""
        annotations = given_texts(items)
        values = accuracies(textvqa_accuracy, annotations, said)
        return {
            "accuracy": mean_metric(values),
            "accuracy_api": mean_metric(accuracies(vizwiz_api_accuracy, annotations, said)),
            "accuracy_min3": mean_metric(accuracies(min_over_three, annotations, said)),
        } | accuracy_by(items, values, "answer_type", ANSWER_TYPES)
