"""GeoQA: multiple choice about geometric figures, reasoned out; the test questions as G-LLaVA publishes them.

test_questions.jsonl: {"question_id": 0, "image": "test/0.png", "text": "\\nFirst perform reasoning, then finally select
    the question from the choices in the following format: Answer: xxx.\\nQuestion:...\\nChoices:\\nA:40\\nB:60"}
test_answers.jsonl: {"question_id": 0, "text": "B"}
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.run import Question
from llava_mocle.evaluation.metrics.geoqa import geoqa_letter
from llava_mocle.evaluation.task import Item, Metric, Source, Task, mean_metric
from llava_mocle.evaluation.tasks.shared.official_files import ID, field, places, read_jsonl
from llava_mocle.evaluation.tasks.shared.prompt_styles import check_style

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

    def items(self, root: Path, prompts: str = "llava") -> list[Item]:
        """See `Task`. The published prompt, which is that of Geo170K's rows, serves both styles."""
        check_style(prompts)
        letters_path, path = root / "geoqa/test_answers.jsonl", root / "geoqa/test_questions.jsonl"
        letters = {}
        for place, record in places(letters_path, read_jsonl(letters_path)):
            letter = field(record, "text", place, str)
            if letter not in ("A", "B", "C", "D"):
                raise DataError(f"{place}: field 'text' is {letter!r:.60}, expected a letter from A to D.")
            letters[field(record, "question_id", place, ID)] = letter
        made = []
        for place, record in places(path, read_jsonl(path)):
            question_id = field(record, "question_id", place, ID)
            if question_id not in letters:
                raise DataError(f"{place}: question {question_id!r} has no answer in {letters_path}; fetch both again.")
            question = Question(
                question_id=question_id,
                prompt=field(record, "text", place, str),
                images=(root / "geoqa/images" / field(record, "image", place, str),),
                source=place,
            )
            made.append(Item(question, letters[question_id]))
        return made

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        """See `Task`: the letter."""
        return geoqa_letter(answer["text"])

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """See `Task`."""
        return {
            "accuracy": mean_metric([float(letter == item.reference) for letter, item in zip(said, items, strict=True)])
        }
