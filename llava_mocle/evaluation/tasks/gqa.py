"""GQA: compositional questions on Visual Genome images; testdev, balanced.

{"20100001": {"question": "Is the kite red?", "imageId": "n100001", "answer": "no", "fullAnswer": "No, it is blue.",
              "isBalanced": true, "types": {"structural": "verify", "semantic": "attr", "detailed": "verifyAttr"}}}
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.run import Question
from llava_mocle.evaluation.metrics.exact import gqa_answer, gqa_match
from llava_mocle.evaluation.prompt_styles import short_question
from llava_mocle.evaluation.task import Answers, Files, Item, Source, Task
from llava_mocle.evaluation.tasks.shared.official_files import ID, field, read_json

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
    parts: ClassVar = {"kind": ("binary", "open")}

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        path = root / FILE
        questions = read_json(path)
        if not isinstance(questions, dict):
            raise DataError(f"{path}: a {type(questions).__name__}, expected an object: question id -> question.")
        for question_id, record in questions.items():
            place = f"{path}, question {question_id}"
            if not field(record, "isBalanced", place, bool):
                raise DataError(f"{place}: isBalanced is false; expected {Path(FILE).name}, the balanced questions.")
            prompt = short_question(field(record, "question", place, str), prompts)
            image = root / IMAGES / f"{field(record, 'imageId', place, ID)}.jpg"
            kind = field(field(record, "types", place, dict), "structural", place, str)
            keys = {"kind": "open" if kind == "query" else "binary"}
            question = Question(question_id, prompt, (image,), source=place)
            yield Item(question, field(record, "answer", place, str), keys)

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        """The text, where something is left of it after LLaVA's clean-up."""
        return answer["text"] if gqa_answer(answer["text"]) else None

    def value(self, item: Item, said: Any) -> float:
        return gqa_match(said, item.reference)

    def submission_files(self, items: Sequence[Item], answers: Answers) -> Files:
        """The predictions file of the official eval.py, as LLaVA writes it."""
        predictions = [
            {"questionId": item.question.question_id, "prediction": gqa_answer(answer["text"])}
            for item, answer in zip(items, answers, strict=True)
        ]
        return {"testdev_balanced_predictions.json": predictions}
