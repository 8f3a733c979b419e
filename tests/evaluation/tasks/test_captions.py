from pathlib import Path

import pytest

from llava_mocle.evaluation.metrics.cider import cider_d
from llava_mocle.evaluation.tasks.captions import caption_item, cider_metric

CAPTIONS = {1: ["a dog runs", "a brown dog"], 2: ["a cat sleeps"], 3: ["a red kite flies high"]}
ITEMS = [caption_item(key, Path(f"{key}.jpg"), texts, "here", "llava", {}) for key, texts in CAPTIONS.items()]


def test_one_request_an_image():
    assert ITEMS[0].question.prompt == "Provide a one-sentence caption for the provided image."
    assert ITEMS[0].reference == ("a dog runs", "a brown dog")
    paper = caption_item(1, Path("1.jpg"), ["a"], "here", "instructblip", {"domain": "in"})
    assert (paper.question.prompt, paper.keys) == ("A short image description:", {"domain": "in"})


def test_the_references_of_the_items_are_the_corpus():
    said = [" a dog runs ", None, "a kite flies"]
    texts = dict(zip(CAPTIONS, ["a dog runs", "", "a kite flies"], strict=True))
    mean, each = cider_d(texts, CAPTIONS)
    metric = cider_metric(ITEMS, said)
    assert metric.value == pytest.approx(100 * mean)
    assert metric.items == tuple(each.values())
    assert metric.items[1] == 0.0
    assert cider_metric(ITEMS[:2], said[:2]).items[0] != metric.items[0]
    assert cider_metric([], []).value is None
