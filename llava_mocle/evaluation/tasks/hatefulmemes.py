"""Hateful Memes: is a meme hateful? The text written on it is given beside the picture.

{"id": 8291, "img": "img/08291.png", "label": 0, "text": "have a nice day"}
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.binary import roc_auc
from llava_mocle.evaluation.prompt_styles import SHORT_ANSWER
from llava_mocle.evaluation.task import Item, Metric, Source, Task, mean_metric, resampled_metric
from llava_mocle.evaluation.tasks.shared.candidate_scores import candidate_scores
from llava_mocle.evaluation.tasks.shared.official_files import ID, field, jsonl_records, one_of

TEMPLATE = 'This is an image with: "{text}" written on it. Is it hateful?'
# Yes first, in the spelling that each family was trained on. InstructBLIP ranks more words for each class of a binary
# task (arXiv 2305.06500, "Inference Methods").
CANDIDATES = {"llava": ("Yes", "No"), "instructblip": ("yes", "true", "no", "false")}
ORIGIN = "the Hateful Memes challenge of Meta AI (Kiela et al., 2020)"


class HatefulMemes(Task):
    """ROC-AUC of the log-odds of yes against no."""

    name = "hatefulmemes"
    title = "Hateful Memes"
    split = "dev (seen)"
    metric = "ROC-AUC x 100 of P(yes) against P(no) (Kiela et al., The Hateful Memes Challenge, 2020)"
    official_n: ClassVar[int | None] = 500
    file: ClassVar[str] = "hatefulmemes/dev_seen.jsonl"
    sources: ClassVar[tuple[Source, ...]] = (
        Source("hatefulmemes/dev_seen.jsonl", "memes of the seen dev split", ORIGIN),
        Source("hatefulmemes/img", "images", ORIGIN),
    )

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        ending = SHORT_ANSWER if prompts == "llava" else " Answer:"
        path = root / self.file
        for place, record in jsonl_records(path):
            question = Question(
                question_id=field(record, "id", place, ID),
                prompt=TEMPLATE.format(text=field(record, "text", place, str)) + ending,
                images=(root / "hatefulmemes" / field(record, "img", place, str),),
                source=place,
                candidates=CANDIDATES[prompts],
            )
            yield Item(question, bool(one_of(record, "label", place, 0, 1)))

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        """The log-odds of yes (or true) against no (or false)."""
        scores = candidate_scores(item, answer)
        half = len(scores) // 2
        return np.logaddexp.reduce(scores[:half]) - np.logaddexp.reduce(scores[half:])

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """Items of one class alone have no AUC."""
        odds, truth = np.array(said, dtype=float), np.array([item.reference for item in items], dtype=bool)
        area = Metric(None, None, len(items))
        if truth.any() and not truth.all():
            area = resampled_metric(np.column_stack([truth, odds]), lambda drawn: roc_auc(drawn[:, 0], drawn[:, 1]))
        right = np.where(truth, odds > 0, odds < 0).astype(float).tolist()
        return {"roc_auc": area, "accuracy": mean_metric(right)}


class HatefulMemesTest(HatefulMemes):
    """The seen test split."""

    name = "hatefulmemes_test"
    title = "Hateful Memes (test)"
    split = "test (seen)"
    official_n = 1000
    file = "hatefulmemes/test_seen.jsonl"
    sources = (
        Source("hatefulmemes/test_seen.jsonl", "memes of the seen test split, with labels", ORIGIN),
        Source("hatefulmemes/img", "images", ORIGIN),
    )
