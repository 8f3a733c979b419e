"""POPE: does the model claim to see objects that are not there? Yes/no questions on COCO val2014 images.

{"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a snowboard in the image?",
 "label": "yes"}
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava_mocle.evaluation.metrics.binary import f1, yes_no_pope
from llava_mocle.evaluation.official import field, places, read_jsonl
from llava_mocle.evaluation.runner import Question
from llava_mocle.evaluation.task import SHORT_ANSWER, Item, Metric, Scores, Source, Task, mean_metric, resampled_metric

SPLITS = ("adversarial", "popular", "random")


class Pope(Task):
    """F1 of "yes"; the adversarial split is the headline."""

    name = "pope"
    title = "POPE"
    split = "adversarial, popular, random"
    metric = "F1 of yes, answers read by LLaVA's parser (Li et al., Evaluating Object Hallucination, 2023)"
    sources = (
        *(
            Source(f"pope/coco/coco_pope_{split}.json", f"{split} questions", "github.com/AoiDragon/POPE, output/coco")
            for split in SPLITS
        ),
        Source("pope/val2014", "images", "COCO 2014 validation images"),
    )

    def items(self, root: Path, prompts: str = "llava") -> list[Item]:
        """See `Task`. Question ids repeat between the splits, so the split is put in front."""
        suffix = SHORT_ANSWER if prompts == "llava" else ""
        made = []
        for split in SPLITS:
            path = root / f"pope/coco/coco_pope_{split}.json"
            for place, record in places(path, read_jsonl(path)):
                text = field(record, "text", place)
                question = Question(
                    question_id=f"{split}-{field(record, 'question_id', place)}",
                    prompt=text + suffix,
                    images=(root / "pope/val2014" / field(record, "image", place),),
                    source=place,
                )
                made.append(Item(question, field(record, "label", place), {"split": split}))
        return made

    def score(self, items: Sequence[Item], answers: Sequence[Mapping[str, Any]]) -> Scores:
        """See `Task`. The parser reads all that is no "no" as "yes", so nothing is unparsed but empty answers."""
        truth = np.array([item.reference == "yes" for item in items])
        said = np.array([yes_no_pope(answer["text"]) == "yes" for answer in answers])
        metrics: dict[str, Metric] = {}
        for split in SPLITS:
            rows = np.array([index for index, item in enumerate(items) if item.keys["split"] == split], dtype=int)

            def split_f1(drawn: np.ndarray, rows: np.ndarray = rows) -> float:
                return f1(truth[rows[drawn]], said[rows[drawn]])

            metrics[f"f1_{split}"] = resampled_metric(range(len(rows)), split_f1)
            metrics[f"accuracy_{split}"] = mean_metric((truth[rows] == said[rows]).astype(float).tolist())
        return Scores("f1_adversarial", metrics, unparsed=sum(not answer["text"].strip() for answer in answers))
