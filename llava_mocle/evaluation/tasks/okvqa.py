"""OK-VQA: questions on COCO val2014 images that need knowledge from outside. VQA's file format, see `vqa_format`.

{"question_id": 425, "image_id": 42, "answer_type": "other", "question_type": "six", "confidence": 3,
 "answers": [{"answer_id": 1, "raw_answer": "sailing", "answer_confidence": "yes", "answer": "sail"}]}
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.evaluation.metrics.vqa import UNPARSED_AS, accuracies, vqa_accuracy
from llava_mocle.evaluation.task import Item, Metric, Source, Task, mean_metric
from llava_mocle.evaluation.tasks.shared.vqa_format import (
    VQA_METRIC,
    VQA_SCORER,
    given_texts,
    vqa_items,
    vqa_metrics,
)

QUESTIONS = "okvqa/OpenEnded_mscoco_val2014_questions.json"
ANNOTATIONS = "okvqa/mscoco_val2014_annotations.json"
IMAGES = "okvqa/val2014"


class OkVqa(Task):
    """Soft accuracy against the published answers, which are stemmed; and against what the annotators wrote."""

    name = "okvqa"
    title = "OK-VQA"
    split = "val2014"
    metric = f"{VQA_METRIC}; the model's answer is not stemmed (Marino et al., 2019)"
    scorers = (VQA_SCORER,)
    unparsed_as = UNPARSED_AS
    sources = (
        Source(QUESTIONS, "questions", "okvqa.allenai.org, v1.1 testing questions"),
        Source(ANNOTATIONS, "answers", "okvqa.allenai.org, v1.1 testing annotations"),
        Source(IMAGES, "images", "COCO 2014 validation images"),
    )
    official_n = 5046

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        return vqa_items(root / QUESTIONS, root / ANNOTATIONS, root / IMAGES, "COCO_val2014_", prompts, "val2014")

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """`accuracy_raw` is there where the annotations have `raw_answer` (v1.1)."""
        metrics = vqa_metrics(items, said)
        if all("raw_answer" in given for item in items for given in item.reference):
            raw = given_texts(items, "raw_answer")
            metrics["accuracy_raw"] = mean_metric(accuracies(vqa_accuracy, raw, said))
        return metrics
