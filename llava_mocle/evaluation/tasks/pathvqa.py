"""PathVQA: questions on pathology images, as LLaVA-Med's rows (see `medical_qa`).

The authors' own annotations are a pickle, which is not read.
"""

from llava_mocle.evaluation.task import Source
from llava_mocle.evaluation.tasks.medical_qa import MedicalQA


class PathVqa(MedicalQA):
    """Test questions."""

    name = "pathvqa"
    title = "PathVQA"
    split = "test"
    folder = "pathvqa"
    sources = (
        Source("pathvqa/test.json", "LLaVA-Med's rows", "made from github.com/UCSD-AI4H/PathVQA, test split"),
        Source("pathvqa/images", "images", "github.com/UCSD-AI4H/PathVQA"),
    )
    paper = {  # noqa: RUF012
        "LLaVA-1.5 single LoRA, own data": 38.07,
        "LLaVA-1.5 single LoRA, all data": 35.56,
        "LLaVA-1.5 MoCLE": 35.21,
        "LLaVA-1.5 single LoRA, own data, closed": 91.77,
        "LLaVA-1.5 single LoRA, all data, closed": 90.71,
        "LLaVA-1.5 MoCLE, closed": 91.65,
    }
