"""TextVQA: questions on text in images; val of 0.5.1, with the OCR tokens of Rosetta in the prompt.

{"data": [{"question_id": 34700, "image_id": "00a1b2", "question": "what is written on the boat?",
           "answers": ["north star", "the north star"], "set_name": "val"}]}
OCR file: {"data": [{"image_id": "00a1b2", "ocr_tokens": ["NORTH", "STAR"], "ocr_info": []}]}
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.data.official_files import ID, annotated, field, json_records, one_of
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.textvqa import textvqa_accuracy
from llava_mocle.evaluation.metrics.vqa import UNPARSED_AS
from llava_mocle.evaluation.prompt_styles import SHORT_ANSWER, short_question
from llava_mocle.evaluation.task import Item, Metric, Source, Task

FILE = "textvqa/TextVQA_0.5.1_val.json"
OCR = "textvqa/TextVQA_Rosetta_OCR_v0.2_val.json"
IMAGES = "textvqa/train_images"
# As many as LAVIS gives InstructBLIP.
INSTRUCTBLIP_TOKENS = 30


class TextVqa(Task):
    """Soft accuracy over the ten annotators. The OCR tokens stand in the prompt, but don't route."""

    name = "textvqa"
    title = "TextVQA"
    split = "val"
    metric = "mean over leave-one-out sets of min(n / 3, 1), EvalAI's normaliser (Singh et al., TextVQA, 2019)"
    sources = (
        Source(FILE, "questions and answers", "textvqa.org/dataset, TextVQA 0.5.1 validation set"),
        Source(OCR, "OCR tokens", "textvqa.org/dataset, Rosetta OCR tokens v0.2 (val)"),
        Source(IMAGES, "images", "textvqa.org/dataset, train_val_images.zip"),
    )
    unparsed_as = UNPARSED_AS
    official_n = 5000

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        path, ocr = root / FILE, root / OCR
        tokens = {}
        for place, record in json_records(ocr, "data"):
            tokens[field(record, "image_id", place, ID)] = field(record, "ocr_tokens", place, list[str])
        for place, record in json_records(path, "data"):
            if "set_name" in record:
                one_of(record, "set_name", place, "val")
            image = field(record, "image_id", place, ID)
            if image not in tokens:
                raise DataError(f"{place}: image {image} has no OCR tokens in {ocr}; is that the file of val?")
            text = field(record, "question", place, str)
            # LLaVA's question file starts the questions, which the official one has in lower case, with a capital.
            text = text[:1].upper() + text[1:] if prompts == "llava" else text
            question = Question(
                question_id=image,  # as in LLaVA's question file; its scorer finds the question by image and prompt
                key=field(record, "question_id", place, ID),
                prompt=prompt_with_tokens(text, tokens[image], prompts),
                images=(root / IMAGES / f"{image}.jpg",),
                route_text=short_question(text, prompts),
                source=place,
            )
            yield Item(question, annotated(record, "answers", place))

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """A blank answer is compared as an empty text, as by LLaVA's evaluator."""
        return super().metrics(items, [text or "" for text in said])

    def value(self, item: Item, said: Any) -> float:
        return textvqa_accuracy(said, item.reference)


def prompt_with_tokens(question: str, tokens: Sequence[str], prompts: str) -> str:
    """The question with the OCR tokens, where LLaVA (behind it) and Table 11 (before it) put them."""
    if prompts == "llava":
        return f"{question}\nReference OCR token: {', '.join(tokens)}{SHORT_ANSWER}"
    return f"OCR tokens: {', '.join(tokens[:INSTRUCTBLIP_TOKENS])}. {short_question(question, prompts)}"
