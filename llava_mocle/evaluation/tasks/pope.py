"""POPE: does the model claim to see objects that are not there? Yes/no questions on COCO val2014 images.

{"question_id": 1, "image": "COCO_val2014_000000310196.jpg", "text": "Is there a snowboard in the image?",
 "label": "yes"}
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from llava_mocle.data.official_files import field, jsonl_records, one_of, whole_number
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.binary import f1, yes_no_pope
from llava_mocle.evaluation.prompt_styles import SHORT_ANSWER
from llava_mocle.evaluation.task import Answers, Files, Item, Metric, Source, Task, mean_metric, resampled_metric

SPLITS = ("adversarial", "popular", "random")
# The files count from 1 in each split; in LLaVA's llava_pope_test.jsonl this is added, so that every id stands once.
LLAVA_IDS = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
FILE = "pope/coco/coco_pope_{}.json"


class Pope(Task):
    """F1 of "yes"; the adversarial split is the headline. An empty answer is a "yes", as officially, and is counted."""

    name = "pope"
    title = "POPE"
    split = "adversarial, popular, random"
    metric = "F1 of yes, answers read by LLaVA's parser (Li et al., Evaluating Object Hallucination, 2023)"
    sources = (
        *(
            Source(FILE.format(split), f"{split} questions", "github.com/AoiDragon/POPE, output/coco")
            for split in SPLITS
        ),
        Source("pope/val2014", "images", "COCO 2014 validation images"),
    )
    unparsed_as = "yes"
    official_n = 9000
    older_n = (8910,)  # the random split had 2,910 questions until October 2023; LLaVA's instructions point at that one

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        suffix = SHORT_ANSWER if prompts == "llava" else ""
        made = []
        for split in SPLITS:
            path = root / FILE.format(split)
            for place, record in jsonl_records(path):
                number = whole_number(record, "question_id", place)
                question = Question(
                    question_id=LLAVA_IDS[split] + number,
                    prompt=field(record, "text", place, str) + suffix,
                    images=(root / "pope/val2014" / field(record, "image", place, str),),
                    source=place,
                    key=f"{split}-{number}",
                )
                made.append(Item(question, one_of(record, "label", place, "yes", "no"), {"split": split}))
        _check_splits(root, made)
        yield from made

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """The parser takes every answer that is not "no" for "yes", an empty one too."""
        pairs = np.array(
            [
                (item.reference == "yes", yes_no_pope(text or "") == "yes")
                for item, text in zip(items, said, strict=True)
            ],
            dtype=bool,
        ).reshape(-1, 2)
        metrics: dict[str, Metric] = {}
        for split in SPLITS:
            rows = pairs[[item.keys["split"] == split for item in items]]
            metrics[f"f1_{split}"] = resampled_metric(rows, lambda drawn: f1(drawn[:, 0], drawn[:, 1]))
            metrics[f"accuracy_{split}"] = mean_metric((rows[:, 0] == rows[:, 1]).astype(float).tolist())
        return metrics

    def submission_files(self, items: Sequence[Item], answers: Answers) -> Files:
        """The question file that LLaVA's eval_pope.py takes with these answers. LLaVA's own has 2,910 random ones."""
        return {
            "llava_pope_test.jsonl": [
                {
                    "question_id": item.question.question_id,
                    "image": item.question.images[0].name,
                    "text": item.question.prompt,
                    "category": item.keys["split"],
                }
                for item in items
            ]
        }


def _check_splits(root: Path, items: Sequence[Item]) -> None:
    """
    Raises:
        DataError: a split has no questions, or those of another.
    """
    asked: dict[str, set[tuple[Any, ...]]] = {split: set() for split in SPLITS}
    for item in items:
        asked[item.keys["split"]].add((item.question.images, item.question.prompt))
    paths = {split: root / FILE.format(split) for split in SPLITS}
    for first, second in combinations(sorted(SPLITS, key=lambda split: len(asked[split])), 2):
        if not asked[first]:
            raise DataError(
                f"{paths[first]}: no question in it, and {len(asked[second])} in {paths[second]}; fetch it again."
            )
        if asked[first] == asked[second]:
            raise DataError(
                f"{paths[first]}: holds the same {len(asked[first])} questions as {paths[second]}, expected a split of "
                "its own; fetch both again."
            )
