"""LLaVA-Instruct-150K: conversations, descriptions and reasoning about images of COCO's train2017; no template.

[{"id": "000000033471", "image": "000000033471.jpg",
  "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "A bus."}]}]
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from llava_mocle.data.conversation import ASSISTANT, HUMAN, IMAGE_TOKEN
from llava_mocle.data.formats.coco import TRAIN_2017, TRAIN_2017_FILE, CocoTrainImages
from llava_mocle.data.formats.format import (
    NO_ANSWER,
    NO_IMAGE,
    NO_QUESTION,
    Format,
    LeftOut,
    MakeOptions,
    OfficialFile,
    OfficialRows,
    Row,
)
from llava_mocle.data.official_files import field, json_records, one_of
from llava_mocle.errors import DataError

_PLACE = "huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K"
_LICENSE = "CC BY 4.0, and OpenAI's terms of use"
_COUNTED = "rows of the published file; the LLaVA paper rounds them (Liu et al., 2023)"


class Llava150kFormat(Format):
    """The first question of each row with its answer, as LAVIS reads the rows; their texts as they are.

    Attributes:
        file: the official file, as a path inside `--source`.
    """

    file: ClassVar[str]
    # Table 9 gives these sets no group: they have no template.
    task_group = "-"

    def make(self, source: Path, images: Path, options: MakeOptions) -> Iterator[Row | LeftOut]:
        coco = CocoTrainImages(source, images, TRAIN_2017)
        for number, (place, record) in enumerate(json_records(source / self.file)):
            turns = field(record, "conversations", place, list[dict])
            if len(turns) < 2:
                raise DataError(f"{place}: {len(turns)} turns, expected a question and its answer.")
            for turn, role in zip(turns, (HUMAN, ASSISTANT), strict=False):
                one_of(turn, "from", place, role)
            question, answer = (field(turn, "value", place, str) for turn in turns[:2])
            question = question.replace(IMAGE_TOKEN, "").strip()
            image = coco.named(field(record, "image", place, str))
            if image is None:
                yield NO_IMAGE
            elif not question or not answer.strip():
                yield NO_ANSWER if question else NO_QUESTION
            else:
                yield {
                    "id": f"{self.name}/{number}",
                    "image": image,
                    "conversations": [
                        {"from": HUMAN, "value": f"{IMAGE_TOKEN}\n{question}"},
                        {"from": ASSISTANT, "value": answer},
                    ],
                    "data_source": "LLaVA-150K",
                }


class LlavaConversation(Llava150kFormat):
    """conversation_58k.json."""

    name = "llava_conversation"
    summary = "the first exchange of LLaVA-150K's conversations"
    file = "llava_150k/conversation_58k.json"
    files = (OfficialFile(file, _PLACE, "126 MB", _LICENSE), TRAIN_2017_FILE)
    rows = OfficialRows((56681,), _COUNTED)


class LlavaDetail(Llava150kFormat):
    """detail_23k.json."""

    name = "llava_detail"
    summary = "LLaVA-150K's detailed descriptions"
    file = "llava_150k/detail_23k.json"
    files = (OfficialFile(file, _PLACE, "20.5 MB", _LICENSE), TRAIN_2017_FILE)
    rows = OfficialRows((23240,), _COUNTED)


class LlavaReason(Llava150kFormat):
    """complex_reasoning_77k.json."""

    name = "llava_reason"
    summary = "LLaVA-150K's complex reasoning"
    file = "llava_150k/complex_reasoning_77k.json"
    files = (OfficialFile(file, _PLACE, "79.6 MB", _LICENSE), TRAIN_2017_FILE)
    rows = OfficialRows((76643,), _COUNTED)
