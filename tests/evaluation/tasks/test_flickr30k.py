import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.captions import Flickr30k
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = ["flickr30k/flickr30k-images/1001.jpg", "flickr30k/flickr30k-images/1002.jpg"]


def test_only_the_test_split_is_asked(tmp_path):
    root = data_root(tmp_path, "flickr30k")
    items = ready_items(Flickr30k(), root, IMAGES)
    assert [item.question.question_id for item in items] == [1, 2]
    assert items[1].reference == ("A brown dog runs.", "A brown dog runs.")
    assert items[0].question.prompt == "Provide a one-sentence caption for the provided image."
    paper = Flickr30k().items(root, "instructblip")
    assert {item.question.prompt for item in paper} == {"A short image description:"}
    assert paper[0].question.route_text is None


def test_cider(tmp_path):
    items = ready_items(Flickr30k(), data_root(tmp_path, "flickr30k"), IMAGES)
    scores = Flickr30k().score(items, answers_to(items, ["two red kites fly above the hill", "Dog runs today."]))
    # Image 1 equals its reference: 10. Image 2: every word stands in one image only, so all weights are log 2.
    # Words 3/(sqrt 4 sqrt 3) without "a": "a" too is in one image (image 1 has no "a"), so the reference has 4 words:
    # cosine 2 / sqrt(3 * 4); pairs 1 / sqrt(2 * 3); threes and fours 0; one word shorter: exp(-1 / 72).
    second = 10 * (2 / 12**0.5 + 1 / 6**0.5) / 4 * 0.986207
    assert scores.headline == "cider"
    assert scores.metrics["cider"].value == pytest.approx(100 * (10 + second) / 2, abs=0.01)
    assert scores.metrics["cider"].items == pytest.approx((10, second), abs=1e-4)
    assert scores.unparsed == 0


def test_empty_captions_are_unparsed(tmp_path):
    items = ready_items(Flickr30k(), data_root(tmp_path, "flickr30k"), IMAGES)
    scores = Flickr30k().score(items, answers_to(items, ["", " \n"]))
    assert (scores.metrics["cider"].value, scores.unparsed) == (0.0, 2)
    assert Flickr30k().score([], []).metrics["cider"].value is None


def test_wrong_files(tmp_path):
    root = data_root(tmp_path, "flickr30k")
    with pytest.raises(DataError, match="flickr30k-images"):
        Flickr30k().check(root)
    path = root / "flickr30k/dataset_flickr30k.json"
    edited(path, '"dataset": "flickr30k"', '"dataset": "coco"')
    with pytest.raises(DataError, match="dataset is 'coco', expected 'flickr30k'"):
        Flickr30k().items(root)
    edited(path, '"dataset": "coco"', '"dataset": "flickr30k"')
    edited(path, '"raw"', '"caption"')
    with pytest.raises(DataError, match=r"dataset_flickr30k.json, record 1: no 'raw'"):
        Flickr30k().items(root)
    edited(path, '"split": "test"', '"split": "val"')
    with pytest.raises(DataError, match="no image of split 'test'"):
        Flickr30k().items(root)
