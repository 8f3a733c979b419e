"""GQA: compositional questions on Visual Genome images; testdev, balanced.

{"20100001": {"question": "Is the kite red?", "imageId": "n100001", "answer": "no", "fullAnswer": "No, it is blue.",
              "isBalanced": true, "types": {"structural": "verify", "semantic": "attr", "detailed": "verifyAttr"}}}
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llava_mocle.data.official_files import ID, field, read_json
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.exact import gqa_answer, gqa_match, gqa_match_lavis
from llava_mocle.evaluation.prompt_styles import short_question
from llava_mocle.evaluation.task import Answers, Files, Item, Metric, Source, Task, mean_metric

FILE = "gqa/data/testdev_balanced_questions.json"
IMAGES = "gqa/data/images"


class Gqa(Task):
    """Exact match; as in the official eval.py, `open` are the "query" questions.

    The prompts decide whose scorer makes `accuracy`, LLaVA's or that of LAVIS (InstructBLIP); the other one's number
    follows under its name.
    """

    name = "gqa"
    title = "GQA"
    split = "testdev balanced"
    metric = (
        "exact match (Hudson and Manning, GQA, 2019): with LLaVA's prompts in lower case without a final full stop, "
        "with InstructBLIP's under VQA's normaliser on both sides, as LAVIS"
    )
    scorers = ("", "LAVIS")
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
            keys = {"kind": "open" if kind == "query" else "binary", "lavis": prompts == "instructblip"}
            question = Question(question_id, prompt, (image,), source=place)
            yield Item(question, field(record, "answer", place, str), keys)

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        """The text, where something is left of it after LLaVA's clean-up."""
        return answer["text"] if gqa_answer(answer["text"]) else None

    def scorer(self, items: Sequence[Item]) -> str:
        return "LAVIS" if _by_lavis(items) else ""

    def value(self, item: Item, said: Any) -> float:
        return gqa_match_lavis(said, item.reference) if item.keys["lavis"] else gqa_match(said, item.reference)

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        name, match = ("accuracy_llava", gqa_match) if _by_lavis(items) else ("accuracy_lavis", gqa_match_lavis)
        values = [match(text or "", item.reference) for item, text in zip(items, said, strict=True)]
        return {**super().metrics(items, said), name: mean_metric(values)}

    def submission_files(self, items: Sequence[Item], answers: Answers) -> Files:
        """The predictions file of the official eval.py, as LLaVA writes it."""
        predictions = [
            {"questionId": item.question.question_id, "prediction": gqa_answer(answer["text"])}
            for item, answer in zip(items, answers, strict=True)
        ]
        return {"testdev_balanced_predictions.json": predictions}


def _by_lavis(items: Sequence[Item]) -> bool:
    return bool(items) and items[0].keys["lavis"]
