"""A-OKVQA: questions on COCO images that need knowledge; answered directly, or by one of four choices.

{"split": "val", "image_id": 42, "question_id": "22aBcD", "question": "What keeps the kite up?",
 "choices": ["rope", "wind", "magnet", "water"], "correct_choice_idx": 1, "direct_answers": ["wind", "the wind"],
 "difficult_direct_answer": false, "rationales": ["It is windy."]}
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.run import Question
from llava_mocle.evaluation.metrics.options import letter_or_text, parse_option_letter
from llava_mocle.evaluation.metrics.vqa import min_over_three, normalize_vqa
from llava_mocle.evaluation.task import Item, Scores, Source, Task, mean_metric
from llava_mocle.evaluation.tasks.shared.annotators import annotated
from llava_mocle.evaluation.tasks.shared.choices import OPTION_TOKENS, choice_item, chosen
from llava_mocle.evaluation.tasks.shared.coco_images import coco_image
from llava_mocle.evaluation.tasks.shared.official import ID, TEXT_OR_NUMBER, field, places, read_json
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

    def score(self, items: Sequence[Item], answers: Sequence[Mapping[str, Any]]) -> Scores:
        """See `Task`. `accuracy_exact` compares the texts as they are, as the official script does."""
        said = [answer["text"] for answer in answers]
        metrics = {
            "accuracy": mean_metric(_direct(items, said, normalize_vqa)),
            "accuracy_exact": mean_metric(_direct(items, said, str)),
        }
        unparsed = sum(not answer["text"].strip() for answer in answers)
        return Scores("accuracy", metrics, unparsed=unparsed)


def _direct(items: Sequence[Item], said: Sequence[str], normalize: Callable[[str], str]) -> list[float]:
    return [
        min_over_three(text, item.reference, normalize) if text.strip() else 0.0
        for item, text in zip(items, said, strict=True)
    ]


class AokVqaChoice(Task):
    """Multiple choice: LLaVA's prompt asks for a letter; with the paper's, the choices are ranked by likelihood."""

    name = "aokvqa_mc"
    title = "A-OKVQA MC"
    split = "val"
    metric = "accuracy of the choice (Schwenk et al., A-OKVQA, 2022)"
    sources = SOURCES
    max_new_tokens = OPTION_TOKENS
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

    def score(self, items: Sequence[Item], answers: Sequence[Mapping[str, Any]]) -> Scores:
        """See `Task`."""
        said = [chosen(item, answer, _option) for item, answer in zip(items, answers, strict=True)]
        # As officially, choices are compared as text: the same text twice is the same choice.
        right = [
            float(index is not None and item.keys["options"][index] == item.keys["options"][item.reference])
            for item, index in zip(items, said, strict=True)
        ]
        return Scores("accuracy", {"accuracy": mean_metric(right)}, unparsed=said.count(None))


def _option(text: str, options: Sequence[str]) -> int | None:
    """A letter in one of the usual forms; else MMBench's matching, which also takes an option's text."""
    index = parse_option_letter(text, options)
    return letter_or_text(text, options) if index is None else index


def _records(root: Path) -> Iterator[tuple[str, Mapping[str, Any], Path]]:
    """(place, record, image) of each question."""
    path = root / FILE
    for place, record in places(path, read_json(path)):
        if field(record, "split", place, str) != "val":
            raise DataError(f"{place}: split is {record['split']!r}, expected 'val'.")
        yield place, record, coco_image(root / IMAGES, "", record, place)
