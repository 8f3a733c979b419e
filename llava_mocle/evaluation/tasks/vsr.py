"""VSR: is a statement about where things are in a picture true? Its zero-shot test split.

{"image": "000000085637.jpg", "image_link": "http://images.cocodataset.org/train2017/000000085637.jpg",
 "caption": "The cup is left of the plate.", "label": 1, "relation": "left of", "annotator_id": 3,
 "vote_true_validator_id": [2, 6], "vote_false_validator_id": []}
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_mocle.data.official_files import field, jsonl_records, one_of
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.binary import yes_probability
from llava_mocle.evaluation.prompt_styles import SHORT_ANSWER
from llava_mocle.evaluation.task import Item, Source, Task
from llava_mocle.evaluation.tasks.shared.candidate_scores import candidate_scores

TEMPLATE = 'Based on the image, is this statement true or false? "{caption}"'
# True words first. LLaVA-1.5 was trained on capitalised short answers, InstructBLIP on lower case.
CANDIDATES = {"llava": ("Yes", "True", "No", "False"), "instructblip": ("yes", "true", "no", "false")}
ORIGIN = "github.com/cambridgeltl/visual-spatial-reasoning"


class Vsr(Task):
    """Accuracy of P(yes) + P(true) against P(no) + P(false); a tie is wrong."""

    name = "vsr"
    title = "VSR"
    split = "zero-shot test"
    metric = "accuracy; the likelihood of yes or true ranked against no or false (Liu et al., VSR, 2023)"
    sources = (
        Source("vsr/splits/zeroshot/test.jsonl", "statements", f"{ORIGIN}, data/splits"),
        Source("vsr/images", "images", "COCO 2017 training and validation images, or the VSR authors' archive of them"),
    )
    official_n = 1222

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        """The file has no ids; they count its records from 0."""
        ending = SHORT_ANSWER if prompts == "llava" else " Answer:"
        path = root / "vsr/splits/zeroshot/test.jsonl"
        for number, (place, record) in enumerate(jsonl_records(path)):
            question = Question(
                question_id=number,
                prompt=TEMPLATE.format(caption=field(record, "caption", place, str)) + ending,
                images=(root / "vsr/images" / field(record, "image", place, str),),
                source=place,
                candidates=CANDIDATES[prompts],
            )
            yield Item(question, bool(one_of(record, "label", place, 0, 1)))

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        """The probability of true."""
        scores = candidate_scores(item, answer)
        return yes_probability(scores[:2], scores[2:])

    def value(self, item: Item, said: Any) -> float:
        return float(said > 0.5 if item.reference else said < 0.5)
