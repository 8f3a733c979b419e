"""Geo170K: descriptions of and questions about geometric figures. The official files hold LLaVA rows, without ids.

{"image": "geoqa_plus/3.png", "conversations": [{"from": "human", "value": "<image>\\nWhat is angle A?"},
                                                {"from": "gpt", "value": "Answer: 40"}]}
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar

from llava_mocle.data.formats.format import (
    NO_IMAGE,
    Asked,
    Format,
    Joined,
    LeftOut,
    MakeOptions,
    OfficialFile,
    OfficialRows,
    Row,
)
from llava_mocle.data.formats.images import official_images
from llava_mocle.data.official_files import field, jsonl_records, streamed_records

_PLACE = "huggingface.co/datasets/Luckyjhg/Geo170K"
_CARD = "the card of Luckyjhg/Geo170K"
_IMAGES = OfficialFile("images*", f"{_PLACE}: images.zip, or its folder", "147 MB", "none stated")
_TEST_QUESTIONS = "test_questions.jsonl"
_TEST = OfficialFile(
    _TEST_QUESTIONS, "github.com/pipilurj/G-LLaVA, playground/data", "not stated", "none stated", needed=False
)
# The folder of GeoQA's test figures, beside those for training.
_TEST_FOLDER = "test"
_TEST_FIGURE = LeftOut("its figure belongs to GeoQA's test split")


class _Geo170K(Format):
    """One of the two files.

    Attributes:
        file: its name.
    """

    file: ClassVar[str]

    def make(self, source: Path, images: Path, options: MakeOptions) -> Iterator[Row | LeftOut]:
        pictures = official_images(source, "images", "images.zip")
        path = source / self.file
        for number, (place, record) in enumerate(streamed_records(path)):
            name = field(record, "image", place, str)
            if PurePosixPath(name).parts[:1] == (_TEST_FOLDER,):
                yield _TEST_FIGURE
            elif (image := pictures.place(name, images)) is None:
                yield NO_IMAGE
            else:
                yield {**record, "id": f"{self.name}-{number}", "image": image}

    def asked_in_test(self, source: Path) -> Iterator[Asked]:
        if (source / _TEST_QUESTIONS).exists():
            pictures = official_images(source, "images", "images.zip")
            for place, record in jsonl_records(source / _TEST_QUESTIONS):
                if (digest := pictures.digest(field(record, "image", place, str))) is not None:
                    yield Asked(digest, field(record, "text", place, str))


class Geo170KAlignment(_Geo170K):
    """Figures and what they show."""

    name = "geo170k_alignment"
    summary = "Geo170K's descriptions of geometric figures"
    task_group = "geometry description"
    file = "alignment.json"
    files = (OfficialFile(file, _PLACE, "24 MB", "none stated"), _IMAGES, _TEST)
    rows = OfficialRows((60252,), _CARD)


class Geo170KQaTuning(_Geo170K):
    """Questions and worked answers."""

    name = "geo170k_qa_tuning"
    summary = "Geo170K's questions about geometric figures"
    task_group = "geometry VQA"
    file = "qa_tuning.json"
    files = (OfficialFile(file, _PLACE, "104 MB", "none stated"), _IMAGES, _TEST)
    rows = OfficialRows((117205,), _CARD)


class Geo170K(Joined):
    """Both files."""

    name = "geo170k"
    summary = "both files of Geo170K in one"
    parts = (("", Geo170KAlignment()), ("", Geo170KQaTuning()))
