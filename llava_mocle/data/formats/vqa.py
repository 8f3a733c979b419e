"""VQAv2 and OK-VQA, in the file format of VQA: questions on COCO's train2014, answered by ten people each.

questions: {"data_subtype": "train2014", "questions": [{"image_id": 9, "question": "Is it day?", "question_id": 9000}]}
annotations: {"data_subtype": "train2014", "annotations": [{"question_id": 9000, "answers": [{"answer": "yes"}]}]}
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from llava_mocle.data.formats.coco import TRAIN_2014, TRAIN_2014_FILE, CocoTrainImages
from llava_mocle.data.formats.format import LeftOut, OfficialFile, OfficialRows
from llava_mocle.data.formats.lavis_text import question_text
from llava_mocle.data.formats.templated import Sample, TemplatedFormat
from llava_mocle.data.official_files import ID, annotated, field, places, read_json, whole_number
from llava_mocle.errors import DataError

_SUBTYPE = "train2014"


class VqaFormat(TemplatedFormat):
    """Questions and answers of train2014.

    Attributes:
        questions / annotations: the two official files, as paths inside `--source`.
    """

    questions: ClassVar[str]
    annotations: ClassVar[str]

    def samples(self, source: Path, images: Path) -> Iterator[Sample | LeftOut]:
        path = source / self.annotations
        answers = {}
        for place, record in _records(path, "annotations"):
            given = annotated(record, "answers", place, dict)
            answers[field(record, "question_id", place, ID)] = [field(one, "answer", place, str) for one in given]
        coco = CocoTrainImages(source, images, TRAIN_2014)
        for place, record in _records(source / self.questions, "questions"):
            key = field(record, "question_id", place, ID)
            if key not in answers:
                raise DataError(f"{place}: question {key} has no annotation in {path}; is it of this split?")
            question = question_text(field(record, "question", place, str))
            image = coco.numbered(whole_number(record, "image_id", place))
            yield Sample(str(key), image, question, answers[key])


def _records(path: Path, key: str) -> Iterator[tuple[str, Any]]:
    content = read_json(path)
    subtype = content.get("data_subtype", _SUBTYPE) if isinstance(content, dict) else _SUBTYPE
    if subtype != _SUBTYPE:
        raise DataError(f"{path}: data_subtype is {subtype!r:.60}, expected {_SUBTYPE!r}: the file of another split.")
    return places(path, field(content, key, str(path)))


class _VqaV2(VqaFormat):
    data_source = "VQAv2"
    questions = "vqav2/v2_OpenEnded_mscoco_train2014_questions.json"
    annotations = "vqav2/v2_mscoco_train2014_annotations.json"
    files = (
        OfficialFile(questions, "visualqa.org/download.html, training questions 2017 v2.0", "not stated", "CC BY 4.0"),
        OfficialFile(
            annotations, "visualqa.org/download.html, training annotations 2017 v2.0", "not stated", "CC BY 4.0"
        ),
        TRAIN_2014_FILE,
    )
    rows = OfficialRows((443757,), "training questions 2017 v2.0 (visualqa.org/download.html)")


class CocoVqa(_VqaV2):
    """LAVIS also trains on val2014 and on Visual Genome; this is the official training split alone."""

    name = "coco_vqa"
    summary = "VQAv2's training questions"
    task_group = "VQA"


class CocoVqg(_VqaV2):
    """The question is asked for, by its answer."""

    name = "coco_vqg"
    summary = "VQAv2's training questions, to be asked by the model"
    task_group = "VQG"


class _OkVqa(VqaFormat):
    """The answers are those that the benchmark counts: v1.1 has them stemmed, and `raw_answer` besides."""

    data_source = "OKVQA"
    questions = "okvqa/OpenEnded_mscoco_train2014_questions.json"
    annotations = "okvqa/mscoco_train2014_annotations.json"
    files = (
        OfficialFile(questions, "okvqa.allenai.org/download.html, v1.1 training questions", "not stated", "not stated"),
        OfficialFile(
            annotations, "okvqa.allenai.org/download.html, v1.1 training annotations", "not stated", "not stated"
        ),
        TRAIN_2014_FILE,
    )
    rows = OfficialRows((9009,), "training questions (Marino et al., OK-VQA, 2019)")


class OkVqa(_OkVqa):
    """Questions that need knowledge from outside the image."""

    name = "ok_vqa"
    summary = "OK-VQA's training questions"
    task_group = "VQA"


class OkVqg(_OkVqa):
    """The question is asked for. Table 9 has "VQA" as its task group, by mistake: it names the set ok_vqg."""

    name = "ok_vqg"
    summary = "OK-VQA's training questions, to be asked by the model"
    task_group = "VQG"
