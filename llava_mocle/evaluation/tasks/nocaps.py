"""NoCaps: captions of 4,500 Open Images validation images, in three domains by the objects that they show.

{"images": [{"id": 0, "file_name": "00a1.jpg", "domain": "near-domain", "open_images_id": "00a1", "coco_url": "..."}],
 "annotations": [{"id": 0, "image_id": 0, "caption": "A kite flies above a field."}]}
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.task import Item, Metric, Source, Task
from llava_mocle.evaluation.tasks.shared.captions import caption_item, cider_metric
from llava_mocle.evaluation.tasks.shared.official_files import ID, field, places, read_json

FILE = "nocaps/nocaps_val_4500_captions.json"
IMAGES = "nocaps/val"
DOMAINS = ("in-domain", "near-domain", "out-domain")


class NoCaps(Task):
    """CIDEr of one caption an image, against its ten."""

    name = "nocaps"
    title = "NoCaps"
    split = "val"
    metric = "CIDEr-D x 100, entire; each domain is scored as a corpus of its own (Agrawal et al., nocaps, 2019)"
    sources = (
        Source(FILE, "captions", "nocaps.org, nocaps_val_4500_captions.json"),
        Source(IMAGES, "images", "Open Images V4 validation; `coco_url` in the captions file"),
    )
    max_new_tokens = 64
    official_n = 4500

    def items(self, root: Path, prompts: str = "llava") -> list[Item]:
        """See `Task`."""
        path = root / FILE
        data = read_json(path)
        captions: dict[Any, list[str]] = {}
        for place, record in places(path, field(data, "annotations", str(path))):
            captions.setdefault(field(record, "image_id", place, ID), []).append(field(record, "caption", place, str))
        made = []
        for place, record in places(path, field(data, "images", str(path))):
            image_id, domain = field(record, "id", place, ID), field(record, "domain", place, str)
            if domain not in DOMAINS:
                raise DataError(f"{place}: domain is {domain!r}, expected one of {', '.join(DOMAINS)}.")
            if image_id not in captions:
                raise DataError(
                    f"{place}: image {image_id} has no caption under 'annotations'; is this the file of val?"
                )
            image = root / IMAGES / field(record, "file_name", place, str)
            made.append(caption_item(image_id, image, captions[image_id], place, prompts, {"domain": domain}))
        return made

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """See `Task`."""
        metrics = {"cider": cider_metric(items, said)}
        for domain in DOMAINS:
            rows = [index for index, item in enumerate(items) if item.keys["domain"] == domain]
            part = cider_metric([items[row] for row in rows], [said[row] for row in rows])
            metrics[f"cider_{domain.replace('-', '_')}"] = part
        return metrics
