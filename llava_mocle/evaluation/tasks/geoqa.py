"""GeoQA: multiple choice about geometric figures, reasoned out; the test questions as G-LLaVA publishes them.

test_questions.jsonl: {"question_id": 0, "image": "test/0.png", "text": "\\nFirst perform reasoning, then finally select
    the question from the choices in the following format: Answer: xxx.\\nQuestion:...\\nChoices:\\nA:40\\nB:60"}
test_answers.jsonl: {"question_id": 0, "text": "B"}
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_mocle.data.official_files import ID, field, jsonl_records, one_of
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.geoqa import geoqa_letter
from llava_mocle.evaluation.task import Item, Source, Task

ORIGIN = "github.com/pipilurj/G-LLaVA, playground/data"


class GeoQA(Task):
    """Top-1 accuracy of the letter that the reasoning settles on."""

    name = "geoqa"
    title = "GeoQA"
    split = "test"
    metric = "accuracy of the letter, read by G-LLaVA's patterns (Chen et al., GeoQA, 2021; Gao et al., G-LLaVA, 2023)"
    max_new_tokens = 1024
    official_n = 754
    sources = (
        Source("geoqa/test_questions.jsonl", "questions, with the request to reason", ORIGIN),
        Source("geoqa/test_answers.jsonl", "letters", ORIGIN),
        Source("geoqa/images", "test/<number>.png", "huggingface.co/datasets/Luckyjhg/Geo170K, images.zip"),
    )

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        """The published prompt, which is that of Geo170K's rows, serves both styles."""
        letters_path, path = root / "geoqa/test_answers.jsonl", root / "geoqa/test_questions.jsonl"
        letters = {
            field(record, "question_id", place, ID): one_of(record, "text", place, "A", "B", "C", "D")
            for place, record in jsonl_records(letters_path)
        }
        for place, record in jsonl_records(path):
            question_id = field(record, "question_id", place, ID)
            if question_id not in letters:
                raise DataError(f"{place}: question {question_id!r} has no answer in {letters_path}; fetch both again.")
            image = root / "geoqa/images" / field(record, "image", place, str)
            question = Question(question_id, field(record, "text", place, str), (image,), source=place)
            yield Item(question, letters[question_id])

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        return geoqa_letter(answer["text"])

    def value(self, item: Item, said: Any) -> float:
        return float(said == item.reference)
