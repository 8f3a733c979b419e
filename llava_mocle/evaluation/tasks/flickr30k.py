"""Flickr30k: captions of the 1,000 test images of Karpathy's split.

{"images": [{"imgid": 67, "filename": "1000000067.jpg", "split": "test", "sentids": [335],
             "sentences": [{"raw": "A kite flies.", "tokens": ["a", "kite", "flies"], "imgid": 67, "sentid": 335}]}],
 "dataset": "flickr30k"}
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.task import Item, Metric, Source, Task
from llava_mocle.evaluation.tasks.shared.captions import caption_item, cider_metric
from llava_mocle.evaluation.tasks.shared.official_files import ID, annotated, field, field_or, places, read_json

FILE = "flickr30k/dataset_flickr30k.json"
IMAGES = "flickr30k/flickr30k-images"


class Flickr30k(Task):
    """CIDEr of one caption an image, against its five."""

    name = "flickr30k"
    title = "Flickr30k"
    split = "Karpathy test"
    metric = "CIDEr-D x 100 (Vedantam et al., 2015)"
    sources = (
        Source(
            FILE, "captions and splits", "Karpathy and Fei-Fei, caption_datasets.zip (Deep Visual-Semantic Alignments)"
        ),
        Source(IMAGES, "images", "Flickr30k, shannon.cs.illinois.edu/DenotationGraph"),
    )
    max_new_tokens = 64
    official_n = 1000

    def items(self, root: Path, prompts: str = "llava") -> list[Item]:
        """See `Task`."""
        path = root / FILE
        content, made = read_json(path), []
        records = places(path, field(content, "images", str(path)))
        dataset = field_or(content, "dataset", str(path), str, "flickr30k")
        if dataset != "flickr30k":
            raise DataError(f"{path}: dataset is {dataset!r}, expected 'flickr30k'; its archive holds COCO's too.")
        for place, record in records:
            if field(record, "split", place, str) != "test":
                continue
            captions = [field(said, "raw", place, str) for said in annotated(record, "sentences", place, dict)]
            image = root / IMAGES / field(record, "filename", place, str)
            made.append(caption_item(field(record, "imgid", place, ID), image, captions, place, prompts, {}))
        if not made:
            raise DataError(f"{path}: no image of split 'test'; expected Karpathy's dataset_flickr30k.json.")
        return made

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """See `Task`."""
        return {"cider": cider_metric(items, said)}
