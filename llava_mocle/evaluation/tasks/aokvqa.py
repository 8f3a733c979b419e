"""A-OKVQA: questions on COCO images that need knowledge; answered directly, or by one of four choices.

{"split": "val", "image_id": 42, "question_id": "22aBcD", "question": "What keeps the kite up?",
 "choices": ["rope", "wind", "magnet", "water"], "correct_choice_idx": 1, "direct_answers": ["wind", "the wind"],
 "difficult_direct_answer": false, "rationales": ["It is windy."]}
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llava_mocle.data.official_files import ID, annotated, coco_image, field, json_records, one_of
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.options import letter_or_text, parse_option_letter
from llava_mocle.evaluation.metrics.vqa import UNPARSED_AS, accuracies, min_over_three
from llava_mocle.evaluation.prompt_styles import short_question
from llava_mocle.evaluation.task import Item, Metric, Source, Task, mean_metric
from llava_mocle.evaluation.tasks.shared.multiple_choice import ChoiceTask, record_item

FILE = "aokvqa/aokvqa_v1p0_val.json"
IMAGES = "aokvqa/val2017"
SOURCES = (
    Source(FILE, "questions, choices and answers", "allenai.org/project/a-okvqa, aokvqa_v1p0.tar.gz"),
    Source(IMAGES, "images", "COCO 2017 validation images"),
)


class AokVqaDirect(Task):
    """Direct answers; questions marked as too difficult for them are left out, as officially."""

    name = "aokvqa_direct"
    title = "A-OKVQA direct"
    split = "val"
    metric = "min(n / 3, 1) over 10 answers, texts compared as they are (Schwenk et al., A-OKVQA, 2022)"
    unparsed_as = UNPARSED_AS
    sources = SOURCES

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        for place, record, image in _records(root):
            if not field(record, "difficult_direct_answer", place, bool):
                prompt = short_question(field(record, "question", place, str), prompts)
                question = Question(field(record, "question_id", place, ID), prompt, (image,), source=place)
                yield Item(question, annotated(record, "direct_answers", place))

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """`accuracy_exact` compares texts as they are, like the official script and LAVIS; `accuracy` normalises."""
        annotations = [item.reference for item in items]
        exact = partial(min_over_three, normalize=str)
        return {
            "accuracy_exact": mean_metric(accuracies(exact, annotations, said)),
            "accuracy": mean_metric(accuracies(min_over_three, annotations, said)),
        }


class AokVqaChoice(ChoiceTask):
    """Multiple choice: LLaVA's prompt asks for a letter; with the paper's, the choices are ranked by likelihood."""

    name = "aokvqa_mc"
    title = "A-OKVQA MC"
    split = "val"
    metric = "accuracy of the choice (Schwenk et al., A-OKVQA, 2022)"
    sources = SOURCES
    official_n = 1145

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        for place, record, image in _records(root):
            name = field(record, "question_id", place, ID)
            yield record_item(name, record, place, prompts, image, answer_key="correct_choice_idx")

    def option(self, text: str, options: Sequence[str]) -> int | None:
        """A letter in one of the usual forms; else a letter among the words, or a choice's text."""
        index = parse_option_letter(text, options)
        return letter_or_text(text, options) if index is None else index


def _records(root: Path) -> Iterator[tuple[str, Mapping[str, Any], Path]]:
    """(place, record, image) of each question."""
    path = root / FILE
    for place, record in json_records(path):
        one_of(record, "split", place, "val")
        yield place, record, coco_image(root / IMAGES, "", record, place)
