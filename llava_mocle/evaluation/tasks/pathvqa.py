"""PathVQA: questions on pathology images, as LLaVA-Med's rows (see `medical_qa`).

The authors' own annotations are a pickle, which is not read.
"""

from llava_mocle.evaluation.task import Source
from llava_mocle.evaluation.tasks.shared.medical_qa import MedicalQA


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
