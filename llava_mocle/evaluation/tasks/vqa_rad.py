"""VQA-RAD: questions on radiology images by clinicians.

Either LLaVA-Med's rows (see `medical_qa`), or the authors' file:

{"qid": "7", "phrase_type": "test_freeform", "image_name": "synpic54610.jpg", "question": "Are the lungs normal?",
 "answer": "No", "answer_type": "CLOSED", "question_type": "ABN", "image_organ": "CHEST"}
"""

from collections.abc import Mapping
from typing import Any

from llava_mocle.evaluation.task import Source
from llava_mocle.evaluation.tasks.shared.medical_qa import MedicalQA, MedicalRecord
from llava_mocle.evaluation.tasks.shared.official_files import ID, TEXT_OR_NUMBER, field

PUBLIC = "VQA_RAD Dataset Public.json"


class VqaRad(MedicalQA):
    """The 451 test questions: phrase types test_freeform and test_para."""

    name = "vqa_rad"
    title = "VQA-RAD"
    split = "test"
    folder = "vqa_rad"
    official_n = 451
    files = ("test.json", PUBLIC)
    image_folders = ("images", "VQA_RAD Image Folder")
    sources = (
        Source(
            "vqa_rad/test.json", f"LLaVA-Med's rows, or else the authors' {PUBLIC!r} in the same folder", "osf.io/89kps"
        ),
        Source("vqa_rad/images", "images (or the authors' 'VQA_RAD Image Folder')", "osf.io/89kps"),
    )

    def official(self, record: Mapping[str, Any], place: str) -> MedicalRecord | None:
        """See `MedicalQA`. Some answers are numbers there."""
        if field(record, "phrase_type", place, str) not in ("test_freeform", "test_para"):
            return None
        return MedicalRecord(
            field(record, "qid", place, ID),
            field(record, "image_name", place, str),
            field(record, "question", place, str),
            str(field(record, "answer", place, TEXT_OR_NUMBER)),
            field(record, "answer_type", place, str),
        )
