import json

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.okvqa import ANNOTATIONS, OkVqa
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = ["okvqa/val2014/COCO_val2014_000000000042.jpg", "okvqa/val2014/COCO_val2014_000000000043.jpg"]


def test_published_and_raw_answers(tmp_path):
    root = data_root(tmp_path, "okvqa")
    items = ready_items(OkVqa(), root, IMAGES)
    assert items[1].question.prompt == "Where does it live?\nAnswer the question using a single word or phrase."
    assert OkVqa().items(root, "instructblip")[1].question.prompt == "Question: Where does it live? Short answer:"
    scores = OkVqa().score(items, answers_to(items, ["Sailing", "a pond"]))
    # "sail" was published for four who wrote "sailing"; "pond" for two who wrote "ponds".
    # Two of ten: (2 * 1/3 + 8 * 2/3) / 10.
    assert scores.headline == "accuracy"
    assert scores.metrics["accuracy"].items == pytest.approx((0, 0.6))
    assert scores.metrics["accuracy_min3"].items == pytest.approx((0, 2 / 3))
    assert scores.metrics["accuracy_raw"].items == (1, 0)
    silent = OkVqa().score(items, answers_to(items, ["", "in the water"]))
    assert (silent.metrics["accuracy"].value, silent.unparsed) == (0, 1)


def test_annotations_without_raw_answers(tmp_path):
    root = data_root(tmp_path, "okvqa")
    data = json.loads((root / ANNOTATIONS).read_text())
    for record in data["annotations"]:
        record["answers"] = [
            {"answer": given["answer"], "answer_id": given["answer_id"]} for given in record["answers"]
        ]
    (root / ANNOTATIONS).write_text(json.dumps(data))
    items = OkVqa().items(root)
    scores = OkVqa().score(items, answers_to(items, ["race", "water"]))
    assert list(scores.metrics) == ["accuracy", "accuracy_upload", "accuracy_min3"]


def test_wrong_files(tmp_path):
    root = data_root(tmp_path, "okvqa")
    edited(root / ANNOTATIONS, '"answer": "pond"', '"text": "pond"')
    with pytest.raises(DataError, match=r"mscoco_val2014_annotations.json, record 1: no 'answer'"):
        OkVqa().items(root)
    data = json.loads((root / ANNOTATIONS).read_text())
    data["annotations"][0]["answers"] = []
    (root / ANNOTATIONS).write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"record 0: 'answers' is \[\]"):
        OkVqa().items(root)
