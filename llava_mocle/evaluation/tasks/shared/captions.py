"""What the captioning benchmarks share: one request an image, and CIDEr-D."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.evaluation.answering.run import Question
from llava_mocle.evaluation.metrics.cider import cider_d
from llava_mocle.evaluation.task import Item, Metric, mean_metric
from llava_mocle.evaluation.tasks.shared.prompt_styles import caption_request


def caption_item(
    image_id: str | int, image: Path, captions: Sequence[str], place: str, prompts: str, keys: Mapping[str, Any]
) -> Item:
    """The item of one image with its reference captions."""
    question = Question(image_id, caption_request(prompts), images=(image,), source=place)
    return Item(question, tuple(captions), keys)


def cider_metric(items: Sequence[Item], said: Sequence[str | None]) -> Metric:
    """CIDEr-D x 100 over `items`, whose references alone are the corpus that the document frequencies are taken from.

    So the score of a part (a domain, the first N images) is that of a benchmark of this part; parts don't average to
    the whole. A caption that is None is empty.
    """
    if not items:
        return Metric(None, None, 0, ())
    ids = [str(item.question.question_id) for item in items]
    captions = {image: (text or "").strip() for image, text in zip(ids, said, strict=True)}
    references = {image: item.reference for image, item in zip(ids, items, strict=True)}
    _, per_image = cider_d(captions, references)
    return mean_metric([per_image[image] for image in ids])
