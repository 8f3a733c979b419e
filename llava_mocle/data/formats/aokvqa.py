"""A-OKVQA: multiple choice, and questions to be asked by the model.

[{"split": "train", "image_id": 42, "question_id": "22aBcD", "question": "What keeps the kite up?",
  "choices": ["rope", "wind", "magnet", "water"], "correct_choice_idx": 1, "direct_answers": ["wind", "the wind"]}]
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_mocle.data.formats.coco import TRAIN_2017, TRAIN_2017_FILE, CocoTrainImages
from llava_mocle.data.formats.format import LeftOut, OfficialFile, OfficialRows
from llava_mocle.data.formats.lavis_text import question_text
from llava_mocle.data.formats.templated import Sample, TemplatedFormat
from llava_mocle.data.official_files import ID, annotated, field, json_records, one_of, whole_number
from llava_mocle.errors import DataError

_FILE = "aokvqa/aokvqa_v1p0_train.json"


class _AokVqaFormat(TemplatedFormat):
    data_source = "A-OKVQA"
    files = (
        OfficialFile(
            _FILE, "allenai.org/project/a-okvqa, aokvqa_v1p0.tar.gz", "not stated", "Apache 2.0 (its repository)"
        ),
        TRAIN_2017_FILE,
    )
    rows = OfficialRows((17056,), "training questions (Schwenk et al., A-OKVQA, 2022)")

    def samples(self, source: Path, images: Path) -> Iterator[Sample | LeftOut]:
        coco = CocoTrainImages(source, images, TRAIN_2017)
        for place, record in json_records(source / _FILE):
            one_of(record, "split", place, "train")
            key = str(field(record, "question_id", place, ID))
            image = coco.numbered(whole_number(record, "image_id", place))
            yield self.sample(key, image, question_text(field(record, "question", place, str)), record, place)

    @abstractmethod
    def sample(self, key: str, image: str | None, question: str, record: Mapping[str, Any], place: str) -> Sample:
        """The sample of a record, with the answers and options that its group of templates needs."""


class AokVqa(_AokVqaFormat):
    """The answer is the text of the right choice, as the benchmark's candidates are."""

    name = "aok_vqa"
    summary = "A-OKVQA's training questions, multiple choice"
    task_group = "VQAMC"

    def sample(self, key: str, image: str | None, question: str, record: Mapping[str, Any], place: str) -> Sample:
        choices = annotated(record, "choices", place)
        right = whole_number(record, "correct_choice_idx", place)
        if right >= len(choices):
            raise DataError(
                f"{place}: correct_choice_idx is {right} with {len(choices)} choices, expected the index of one of "
                "them; fetch the file again."
            )
        return Sample(key, image, question, (choices[right],), choices)


class AokVqg(_AokVqaFormat):
    """The question is asked for, by one of the direct answers, as LAVIS reads them."""

    name = "aok_vqg"
    summary = "A-OKVQA's training questions, to be asked by the model"
    task_group = "VQG"

    def sample(self, key: str, image: str | None, question: str, record: Mapping[str, Any], place: str) -> Sample:
        return Sample(key, image, question, annotated(record, "direct_answers", place))
