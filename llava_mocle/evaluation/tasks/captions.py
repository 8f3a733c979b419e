"""Flickr30k and NoCaps: one caption an image, scored with CIDEr-D.

Flickr30k, Karpathy's split:

{"images": [{"imgid": 67, "filename": "1000000067.jpg", "split": "test", "sentids": [335],
             "sentences": [{"raw": "A kite flies.", "tokens": ["a", "kite", "flies"], "imgid": 67, "sentid": 335}]}],
 "dataset": "flickr30k"}

NoCaps:

{"images": [{"id": 0, "file_name": "00a1.jpg", "domain": "near-domain", "open_images_id": "00a1", "coco_url": "..."}],
 "annotations": [{"id": 0, "image_id": 0, "caption": "A kite flies above a field."}]}
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.data.official_files import ID, annotated, field, field_or, one_of, places, read_json
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.cider import cider_d
from llava_mocle.evaluation.prompt_styles import caption_request
from llava_mocle.evaluation.task import Item, Metric, Source, Task, mean_metric

FLICKR_FILE = "flickr30k/dataset_flickr30k.json"
FLICKR_IMAGES = "flickr30k/flickr30k-images"
NOCAPS_FILE = "nocaps/nocaps_val_4500_captions.json"
NOCAPS_IMAGES = "nocaps/val"
DOMAINS = ("in-domain", "near-domain", "out-domain")


class Flickr30k(Task):
    """CIDEr of one caption an image, against its five."""

    name = "flickr30k"
    title = "Flickr30k"
    split = "Karpathy test"
    metric = "CIDEr-D x 100 (Vedantam et al., 2015)"
    sources = (
        Source(
            FLICKR_FILE,
            "captions and splits",
            "Karpathy and Fei-Fei, caption_datasets.zip (Deep Visual-Semantic Alignments)",
        ),
        Source(FLICKR_IMAGES, "images", "Flickr30k, shannon.cs.illinois.edu/DenotationGraph"),
    )
    max_new_tokens = 64
    official_n = 1000

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        path = root / FLICKR_FILE
        content = read_json(path)
        records = places(path, field(content, "images", str(path)))
        dataset = field_or(content, "dataset", str(path), str, "flickr30k")
        if dataset != "flickr30k":
            raise DataError(f"{path}: dataset is {dataset!r}, expected 'flickr30k'; its archive holds COCO's too.")
        there = False
        for place, record in records:
            if field(record, "split", place, str) == "test":
                there = True
                captions = [field(said, "raw", place, str) for said in annotated(record, "sentences", place, dict)]
                image = root / FLICKR_IMAGES / field(record, "filename", place, str)
                yield caption_item(field(record, "imgid", place, ID), image, captions, place, prompts, {})
        if not there:
            raise DataError(f"{path}: no image of split 'test'; expected Karpathy's dataset_flickr30k.json.")

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        return {"cider": cider_metric(items, said)}


class NoCaps(Task):
    """CIDEr of one caption an image, against its ten, of all 4,500 and of three domains by the objects shown."""

    name = "nocaps"
    title = "NoCaps"
    split = "val"
    metric = "CIDEr-D x 100, entire; each domain is scored as a corpus of its own (Agrawal et al., nocaps, 2019)"
    sources = (
        Source(NOCAPS_FILE, "captions", "nocaps.org, nocaps_val_4500_captions.json"),
        Source(NOCAPS_IMAGES, "images", "Open Images V4 validation; `coco_url` in the captions file"),
    )
    max_new_tokens = 64
    official_n = 4500

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        path = root / NOCAPS_FILE
        data = read_json(path)
        captions: dict[Any, list[str]] = {}
        for place, record in places(path, field(data, "annotations", str(path))):
            captions.setdefault(field(record, "image_id", place, ID), []).append(field(record, "caption", place, str))
        for place, record in places(path, field(data, "images", str(path))):
            image_id, domain = field(record, "id", place, ID), one_of(record, "domain", place, *DOMAINS)
            if image_id not in captions:
                raise DataError(
                    f"{place}: image {image_id} has no caption under 'annotations'; is this the file of val?"
                )
            image = root / NOCAPS_IMAGES / field(record, "file_name", place, str)
            yield caption_item(image_id, image, captions[image_id], place, prompts, {"domain": domain})

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        metrics = {"cider": cider_metric(items, said)}
        for domain in DOMAINS:
            rows = [index for index, item in enumerate(items) if item.keys["domain"] == domain]
            part = cider_metric([items[row] for row in rows], [said[row] for row in rows])
            metrics[f"cider_{domain.replace('-', '_')}"] = part
        return metrics


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
