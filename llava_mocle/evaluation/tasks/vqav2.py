"""VQAv2: open questions on COCO images. Val is scored here, test-dev by the server.

VQA's file format, see `vqa_format`; the questions of test-dev have no annotations.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.data.official_files import ID, field, json_records
from llava_mocle.errors import DataError
from llava_mocle.evaluation.metrics.textvqa import normalize_evalai
from llava_mocle.evaluation.metrics.vqa import UNPARSED_AS
from llava_mocle.evaluation.task import Answers, Files, Item, Metric, Source, Task
from llava_mocle.evaluation.tasks.shared.vqa_format import VQA_METRIC, VQA_SCORER, vqa_items, vqa_metrics

TEST_DEV = "vqav2/v2_OpenEnded_mscoco_test-dev2015_questions.json"
TEST = "vqav2/v2_OpenEnded_mscoco_test2015_questions.json"
TEST_IMAGES = "vqav2/test2015"
VAL = "vqav2/v2_OpenEnded_mscoco_val2014_questions.json"
VAL_ANNOTATIONS = "vqav2/v2_mscoco_val2014_annotations.json"
VAL_IMAGES = "vqav2/val2014"
ANSWER_TYPES = ("yes/no", "number", "other")
ORIGIN = "visualqa.org/download.html, v2.0"


class VqaV2(Task):
    """Test-dev: an upload for the server, no score here."""

    name = "vqav2"
    title = "VQAv2"
    split = "test-dev"
    metric = "VQA accuracy, by the server: EvalAI challenge 830 (Goyal et al., 2017)"
    sources = (
        Source(TEST_DEV, "questions", ORIGIN),
        Source(TEST_IMAGES, "images", "COCO 2015 test images"),
        Source(
            TEST, "all test questions: those outside test-dev are uploaded with empty answers", ORIGIN, needed=False
        ),
    )
    official_n = 107394

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        for item in vqa_items(root / TEST_DEV, None, root / TEST_IMAGES, "COCO_test2015_", prompts, "test"):
            yield Item(item.question, None, {"all_questions": root / TEST})

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """No score: the answers are not published."""
        return {"accuracy": Metric(None, None, 0, ())}

    def submission_files(self, items: Sequence[Item], answers: Answers) -> Files:
        """The upload, answers normalised as LLaVA does; covers all test questions where their file is there."""
        said = {
            item.question.question_id: normalize_evalai(answer["text"])
            for item, answer in zip(items, answers, strict=True)
        }
        path = items[0].keys["all_questions"] if items else None
        if path is not None and path.is_file():
            asked = [field(record, "question_id", place, ID) for place, record in json_records(path, "questions")]
            lost = said.keys() - set(asked)
            if lost:
                raise DataError(f"{path}: no question {min(lost)} of test-dev; expected all questions of test2015.")
            said = {question_id: said.get(question_id, "") for question_id in asked}
        return {"vqav2_test-dev2015.json": [{"question_id": name, "answer": text} for name, text in said.items()]}


class VqaV2Val(Task):
    """Val: scored here."""

    name = "vqav2_val"
    title = "VQAv2 val"
    split = "val"
    metric = f"{VQA_METRIC} (Goyal et al., 2017)"
    scorers = (VQA_SCORER,)
    unparsed_as = UNPARSED_AS
    sources = (
        Source(VAL, "questions", ORIGIN),
        Source(VAL_ANNOTATIONS, "answers", ORIGIN),
        Source(VAL_IMAGES, "images", "COCO 2014 validation images"),
    )
    official_n = 214354

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        return vqa_items(root / VAL, root / VAL_ANNOTATIONS, root / VAL_IMAGES, "COCO_val2014_", prompts, "val2014")

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        return vqa_metrics(items, said, ANSWER_TYPES)
