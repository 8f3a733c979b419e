"""VQA-RAD, SLAKE and PathVQA: the medical mix of the paper.

A row's question stands alone, as LLaVA-Med's rows and the benchmarks' questions have it.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from llava_mocle.data.conversation import ASSISTANT, HUMAN, IMAGE_TOKEN
from llava_mocle.data.formats.format import (
    NO_ANSWER,
    NO_IMAGE,
    NO_QUESTION,
    Asked,
    Format,
    Joined,
    LeftOut,
    MakeOptions,
    OfficialFile,
    OfficialRows,
    Row,
)
from llava_mocle.data.formats.images import OfficialImages, bytes_name, official_images, place_bytes
from llava_mocle.data.formats.parquet import image_bytes, parquet_records
from llava_mocle.data.official_files import TEXT_OR_NUMBER, field, json_records
from llava_mocle.errors import DataError

VQA_RAD_PUBLIC = "VQA_RAD Dataset Public.json"
VQA_RAD_FOLDER = "VQA_RAD Image Folder"
# Values of `phrase_type` in the authors' file of VQA-RAD that make its test split.
VQA_RAD_TEST = ("test_freeform", "test_para")
# The language of SLAKE's records that the paper's numbers are of.
SLAKE_LANGUAGE = "en"

_TASK_GROUP = "medical VQA"
_TRAIN, _TEST = "data/train-*.parquet", "data/test-*.parquet"
_OTHER_SPLIT = LeftOut("it belongs to the test split", official=False)
_NOT_ENGLISH = LeftOut("it is not in English", official=False)
_BROKEN_IMAGE = LeftOut("its image is in no format that is known")


class _HuggingFaceVqa(Format):
    """Parquet files as flaviagiammarino publishes them: the columns image, question, answer.

    An image has no name there. It gets one made of its bytes, so it is written once for all of its questions.
    """

    def make(self, source: Path, images: Path, options: MakeOptions) -> Iterator[Row | LeftOut]:
        records = parquet_records(self.paths(source, _TRAIN), "image", "question", "answer")
        for number, (place, record) in enumerate(records):
            row_id = f"{self.name}-train-{number}"
            data = image_bytes(record, place)
            image = bytes_name(data, self.name) if data else None
            if not data or image is None:
                yield NO_IMAGE if not data else _BROKEN_IMAGE
                continue
            row = _row(row_id, image, record, place)
            if not isinstance(row, LeftOut):
                place_bytes(data, image, images)
            yield row

    def asked_in_test(self, source: Path) -> Iterator[Asked]:
        for place, record in parquet_records(self.paths(source, _TEST), "image", "question"):
            if data := image_bytes(record, place):
                yield Asked(hashlib.sha256(data).digest(), field(record, "question", place, str))


class VqaRad(_HuggingFaceVqa):
    """The authors' file, or the parquet files that were made of it.

    {"qid": "7", "phrase_type": "freeform", "image_name": "synpic54610.jpg", "question": "Are the lungs normal?",
     "answer": "No", "answer_type": "CLOSED", "question_type": "ABN", "image_organ": "CHEST"}
    """

    name = "vqa_rad"
    summary = "questions on radiology images"
    task_group = _TASK_GROUP
    files = (
        OfficialFile(VQA_RAD_PUBLIC, "osf.io/89kps", "not stated", "CC0 1.0", "authors"),
        OfficialFile(f"{VQA_RAD_FOLDER}*", "osf.io/89kps, also as .zip", "not stated", "CC0 1.0", "authors"),
        OfficialFile(_TRAIN, "huggingface.co/datasets/flaviagiammarino/vqa-rad", "34 MB in all", "CC0 1.0", "parquet"),
        OfficialFile(_TEST, "the same place", "see above", "CC0 1.0", "parquet", needed=False),
    )
    rows = OfficialRows(
        (1797, 1793),
        "the authors' file: 2,248 questions, 451 of them for tests; the parquet files' card: 1,793, repeats left out",
    )

    def make(self, source: Path, images: Path, options: MakeOptions) -> Iterator[Row | LeftOut]:
        if self.form(source) == "parquet":
            yield from super().make(source, images, options)
            return
        pictures = official_images(source, VQA_RAD_FOLDER, f"{VQA_RAD_FOLDER}.zip")
        for number, (place, record) in enumerate(json_records(source / VQA_RAD_PUBLIC)):
            if field(record, "phrase_type", place, str) in VQA_RAD_TEST:
                yield _OTHER_SPLIT
                continue
            image = pictures.place(field(record, "image_name", place, str), images, self.name)
            yield _row(f"vqa_rad-{number}", image, record, place)

    def asked_in_test(self, source: Path) -> Iterator[Asked]:
        if self.form(source) == "parquet":
            yield from super().asked_in_test(source)
            return
        pictures = official_images(source, VQA_RAD_FOLDER, f"{VQA_RAD_FOLDER}.zip")
        for place, record in json_records(source / VQA_RAD_PUBLIC):
            if field(record, "phrase_type", place, str) in VQA_RAD_TEST:
                yield from _asked(pictures, "image_name", record, place)


class Slake(Format):
    """The authors' train.json; only its English records.

    {"img_id": 1, "img_name": "xmlab1/source.jpg", "question": "Is the lung healthy?", "answer": "No", "q_lang": "en",
     "location": "Lung", "modality": "X-Ray", "answer_type": "CLOSED", "base_type": "vqa", "qid": 11934,
     "content_type": "Abnormality", "triple": ["vhead", "_", "_"]}
    """

    name = "slake"
    summary = "English questions on radiology images"
    task_group = _TASK_GROUP
    files = (
        OfficialFile("train.json", "huggingface.co/datasets/BoKelvin/SLAKE or med-vqa.com/slake", "3 MB", "CC BY 4.0"),
        OfficialFile("imgs*", "the same places (imgs.zip, or its folder)", "212 MB", "CC BY 4.0"),
        OfficialFile("test.json", "the same places", "0.6 MB", "CC BY 4.0", needed=False),
    )
    rows = OfficialRows((4919,), "Liu et al., SLAKE, 2021, and LLaVA-Med, 2023: English questions of the train split")

    def make(self, source: Path, images: Path, options: MakeOptions) -> Iterator[Row | LeftOut]:
        pictures = official_images(source, "imgs", "imgs.zip")
        for number, (place, record) in enumerate(json_records(source / "train.json")):
            if field(record, "q_lang", place, str) != SLAKE_LANGUAGE:
                yield _NOT_ENGLISH
                continue
            image = pictures.place(field(record, "img_name", place, str), images, self.name)
            yield _row(f"slake-train-{number}", image, record, place)

    def asked_in_test(self, source: Path) -> Iterator[Asked]:
        if (source / "test.json").exists():
            pictures = official_images(source, "imgs", "imgs.zip")
            for place, record in json_records(source / "test.json"):
                yield from _asked(pictures, "img_name", record, place)


class PathVqa(_HuggingFaceVqa):
    """The parquet files. The authors' own annotations are pickles, which are never read."""

    name = "pathvqa"
    summary = "questions on pathology images"
    task_group = _TASK_GROUP
    files = (
        OfficialFile(_TRAIN, "huggingface.co/datasets/flaviagiammarino/path-vqa", "0.8 GB in all", "MIT"),
        OfficialFile(_TEST, "the same place", "see above", "MIT", needed=False),
    )
    rows = OfficialRows((19654,), "the card of flaviagiammarino/path-vqa")

    def form(self, source: Path) -> str:
        try:
            return super().form(source)
        except DataError as error:
            if pickles := sorted(source.rglob("*.pkl")):
                raise DataError(
                    f"{pickles[0]}: a pickle could run any program, so it is not read; fetch the parquet files, "
                    f"{_TRAIN}: `llava-mocle data make pathvqa` says where."
                ) from error
            raise


class MedMix(Joined):
    """The paper's medical mix."""

    name = "med_mix"
    summary = "the paper's medical mix: vqa_rad, slake and pathvqa in one file"
    parts = (("vqa_rad", VqaRad()), ("slake", Slake()), ("pathvqa", PathVqa()))


def _asked(pictures: OfficialImages, image_key: str, record: Row, place: str) -> Iterator[Asked]:
    """A record of a test split; nothing where its image is not there."""
    if (digest := pictures.digest(field(record, image_key, place, str))) is not None:
        yield Asked(digest, field(record, "question", place, str))


def _row(row_id: str, image: str | None, record: Row, place: str) -> Row | LeftOut:
    """One question and its answer; `answer_type` and `qid` are kept where the record has them."""
    question = field(record, "question", place, str)
    answer = field(record, "answer", place, TEXT_OR_NUMBER | None)
    if image is None:
        return NO_IMAGE
    if not question.strip():
        return NO_QUESTION
    if answer is None or not str(answer).strip():
        return NO_ANSWER
    turns = [
        {"from": HUMAN, "value": f"{IMAGE_TOKEN}\n{question}"},
        {"from": ASSISTANT, "value": str(answer)},
    ]
    kept: Row = {key: record[key] for key in ("qid", "answer_type") if key in record}
    return {"id": row_id, "image": image, "conversations": turns, **kept}
