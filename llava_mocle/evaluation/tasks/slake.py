"""SLAKE: questions on radiology images, in English and Chinese; the English ones.

Either LLaVA-Med's rows (see `medical_qa`), or the authors' file:

{"img_id": 1, "img_name": "xmlab1/source.jpg", "question": "Is the lung healthy?", "answer": "No", "q_lang": "en",
 "location": "Lung", "modality": "X-Ray", "answer_type": "CLOSED", "base_type": "vqa", "content_type": "Abnormality",
 "triple": ["vhead", "_", "_"], "qid": 11934}
"""

from collections.abc import Mapping
from typing import Any

from llava_mocle.evaluation.task import Source
from llava_mocle.evaluation.tasks.shared.medical_qa import MedicalQA, MedicalRecord
from llava_mocle.evaluation.tasks.shared.official_files import ID, TEXT_OR_NUMBER, field

ORIGIN = "med-vqa.com/slake, Slake1.0.zip"


class Slake(MedicalQA):
    """English test questions; closed answers are not only yes and no."""

    name = "slake"
    title = "SLAKE"
    split = "English test"
    folder = "slake"
    image_folders = ("imgs", "images")
    official_n = 1061
    sources = (
        Source("slake/test.json", "the authors' file, or LLaVA-Med's rows", ORIGIN),
        Source("slake/imgs", "images (or a folder `images`)", ORIGIN),
    )

    def official(self, record: Mapping[str, Any], place: str) -> MedicalRecord | None:
        """See `MedicalQA`."""
        if field(record, "q_lang", place, str) != "en":
            return None
        return MedicalRecord(
            field(record, "qid", place, ID),
            field(record, "img_name", place, str),
            field(record, "question", place, str),
            str(field(record, "answer", place, TEXT_OR_NUMBER)),
            field(record, "answer_type", place, str),
        )
