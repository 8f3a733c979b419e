"""A-OKVQA: questions on COCO images that need knowledge; answered directly, or by one of four choices.

{"split": "val", "image_id": 42, "question_id": "22aBcD", "question": "What keeps the kite up?",
 "choices": ["rope", "wind", "magnet", "water"], "correct_choice_idx": 1, "direct_answers": ["wind", "the wind"],
 "difficult_direct_answer": false, "rationales": ["It is windy."]}
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.run import Question
from llava_mocle.evaluation.metrics.options import letter_or_text, parse_option_letter
from llava_mocle.evaluation.metrics.vqa import accuracies, min_over_three
from llava_mocle.evaluation.task import Item, Metric, Source, Task, mean_metric
from llava_mocle.evaluation.tasks.shared.coco_images import coco_image
from llava_mocle.evaluation.tasks.shared.multiple_choice import ChoiceTask, choice_item
from llava_mocle.evaluation.tasks.shared.official_files import ID, TEXT_OR_NUMBER, annotated, field, places, read_json
from llava_mocle.evaluation.tasks.shared.prompt_styles import short_question

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
    metric = "min(n / 3, 1) over 10 answers, VQA's normaliser on both sides (Schwenk et al., A-OKVQA, 2022)"
    sources = SOURCES

    def items(self, root: Path, prompts: str = "llava") -> list[Item]:
        """See `Task`."""
        made = []
        for place, record, image in _records(root):
            if field(record, "difficult_direct_answer", place, bool):
                continue
            prompt = short_question(field(record, "question", place, str), prompts)
            question = Question(field(record, "question_id", place, ID), prompt, images=(image,), source=place)
            made.append(Item(question, annotated(record, "direct_answers", place)))
        return made

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """See `Task`. `accuracy_exact` compares the texts as they are, as the official script does."""
        annotations = [item.reference for item in items]
        exact = partial(min_over_three, normalize=str)
        return {
            "accuracy": mean_metric(accuracies(min_over_three, annotations, said)),
            "accuracy_exact": mean_metric(accuracies(exact, annotations, said)),
        }


class AokVqaChoice(ChoiceTask):
    """Multiple choice: LLaVA's prompt asks for a letter; with the paper's, the choices are ranked by likelihood."""

    name = "aokvqa_mc"
    title = "A-OKVQA MC"
    split = "val"
    metric = "accuracy of the choice (Schwenk et al., A-OKVQA, 2022)"
    sources = SOURCES
    official_n = 1145

    def items(self, root: Path, prompts: str = "llava") -> list[Item]:
        """See `Task`."""
        made = []
        for place, record, image in _records(root):
            item = choice_item(
                field(record, "question_id", place, ID),
                field(record, "question", place, str),
                field(record, "choices", place, list[TEXT_OR_NUMBER]),
                field(record, "correct_choice_idx", place, int),
                images=(image,),
                place=place,
                prompts=prompts,
            )
            made.append(item)
        return made

    def option(self, text: str, options: Sequence[str]) -> int | None:
        """See `ChoiceTask`. A letter in one of the usual forms; else MMBench's matching, which also takes a text."""
        index = parse_option_letter(text, options)
        return letter_or_text(text, options) if index is None else index


def _records(root: Path) -> Iterator[tuple[str, Mapping[str, Any], Path]]:
    """(place, record, image) of each question."""
    path = root / FILE
    for place, record in places(path, read_json(path)):
        if field(record, "split", place, str) != "val":
            raise DataError(f"{place}: split is {record['split']!r}, expected 'val'.")
        yield place, record, coco_image(root / IMAGES, "", record, place)
