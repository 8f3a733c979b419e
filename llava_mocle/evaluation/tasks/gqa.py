"""GQA: compositional questions on Visual Genome images; testdev, balanced.

{"20100001": {"question": "Is the kite red?", "imageId": "n100001", "answer": "no", "fullAnswer": "No, it is blue.",
              "isBalanced": true, "types": {"structural": "verify", "semantic": "attr", "detailed": "verifyAttr"}}}
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.run import Question
from llava_mocle.evaluation.metrics.exact import gqa_answer, gqa_match
from llava_mocle.evaluation.task import Item, Metric, Source, Task, mean_metric
from llava_mocle.evaluation.tasks.shared.official_files import ID, field, read_json
from llava_mocle.evaluation.tasks.shared.prompt_styles import short_question
from llava_mocle.evaluation.tasks.shared.submissions import write_json

FILE = "gqa/data/testdev_balanced_questions.json"
IMAGES = "gqa/data/images"


class Gqa(Task):
    """Exact match after LLaVA's clean-up; as in the official eval.py, `open` are the "query" questions."""

    name = "gqa"
    title = "GQA"
    split = "testdev balanced"
    metric = "exact match, lower case, final full stop dropped (Hudson and Manning, GQA, 2019)"
    sources = (
        Source(FILE, "questions", "cs.stanford.edu/people/dorarad/gqa, questions1.2.zip"),
        Source(IMAGES, "images", "cs.stanford.edu/people/dorarad/gqa, images.zip"),
    )
    official_n = 12578

    def items(self, root: Path, prompts: str = "llava") -> list[Item]:
        """See `Task`."""
        path = root / FILE
        questions = read_json(path)
        if not isinstance(questions, dict):
            raise DataError(f"{path}: a {type(questions).__name__}, expected an object: question id -> question.")
        made = []
        for question_id, record in questions.items():
            place = f"{path}, question {question_id}"
            if not field(record, "isBalanced", place, bool):
                raise DataError(f"{place}: isBalanced is false; expected {Path(FILE).name}, the balanced questions.")
            question = Question(
                question_id=question_id,
                prompt=short_question(field(record, "question", place, str), prompts),
                images=(root / IMAGES / f"{field(record, 'imageId', place, ID)}.jpg",),
                source=place,
            )
            kind = field(field(record, "types", place, dict), "structural", place, str)
            keys = {"kind": "open" if kind == "query" else "binary"}
            made.append(Item(question, field(record, "answer", place, str), keys))
        return made

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        """See `Task`: the text, where something is left of it after LLaVA's clean-up."""
        return answer["text"] if gqa_answer(answer["text"]) else None

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """See `Task`."""
        right = [gqa_match(text or "", item.reference) for item, text in zip(items, said, strict=True)]
        metrics = {"accuracy": mean_metric(right)}
        for kind in ("binary", "open"):
            part = [value for item, value in zip(items, right, strict=True) if item.keys["kind"] == kind]
            metrics[f"accuracy_{kind}"] = mean_metric(part)
        return metrics

    def submission(self, items: Sequence[Item], answers: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
        """The predictions file of the official eval.py, as LLaVA writes it."""
        predictions = [
            {"questionId": item.question.question_id, "prediction": gqa_answer(answer["text"])}
            for item, answer in zip(items, answers, strict=True)
        ]
        return [write_json(folder / "testdev_balanced_predictions.json", predictions)]
