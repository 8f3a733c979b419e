import json

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.vqav2 import VqaV2, VqaV2Val
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

VAL = ["vqav2/val2014/COCO_val2014_000000000007.jpg", "vqav2/val2014/COCO_val2014_000000000042.jpg"]
TEST = ["vqav2/test2015/COCO_test2015_000000000009.jpg"]


def test_val_is_scored(tmp_path):
    root = data_root(tmp_path, "vqav2")
    items = ready_items(VqaV2Val(), root, VAL)
    assert [item.question.question_id for item in items] == [42000, 42001, 7000]
    assert items[0].question.prompt == "Is it day?\nAnswer the question using a single word or phrase."
    assert VqaV2Val().items(root, "instructblip")[0].question.prompt == "Question: Is it day? Short answer:"
    scores = VqaV2Val().score(items, answers_to(items, ["Yes.", "two", "The kite!"]))
    # All ten wrote "yes", so raw texts are compared. Two of ten say "2": (2 * 1/3 + 8 * 2/3) / 10.
    assert scores.headline == "accuracy"
    assert scores.metrics["accuracy"].items == pytest.approx((0, 0.6, 1))
    assert scores.metrics["accuracy_upload"].items == pytest.approx((1, 0.6, 1))
    assert scores.metrics["accuracy_min3"].items == pytest.approx((1, 2 / 3, 1))
    assert scores.metrics["accuracy_yes_no"].value == 0
    assert scores.metrics["accuracy_number"].value == pytest.approx(60)
    assert scores.metrics["accuracy_other"].n == 1
    # A sentence, a yes inside a word and silence are wrong; only silence is unparsed.
    worse = VqaV2Val().score(items, answers_to(items, ["yesterday", "I see two kites", " "]))
    assert (worse.metrics["accuracy"].value, worse.unparsed) == (0, 1)


def test_test_dev_is_uploaded(tmp_path):
    root = data_root(tmp_path, "vqav2")
    items = ready_items(VqaV2(), root, TEST)
    answers = answers_to(items, ["Yes, it is.", "Joe's"])
    scores = VqaV2().score(items, answers)
    assert (scores.metrics[scores.headline].value, scores.metrics[scores.headline].n) == (None, 0)
    (path,) = VqaV2().submission(items, answers, tmp_path / "out")
    # All test questions in their order, those outside test-dev empty; answers under the EvalAI normaliser.
    assert json.loads(path.read_text()) == [
        {"question_id": 8000, "answer": ""},
        {"question_id": 9000, "answer": "yes it is"},
        {"question_id": 9001, "answer": "joe 's"},
    ]
    every = root / "vqav2/v2_OpenEnded_mscoco_test2015_questions.json"
    edited(every, '"question_id": 9001', '"question_id": 9002')
    with pytest.raises(DataError, match="no question 9001 of test-dev"):
        VqaV2().submission(items, answers, tmp_path / "out")
    every.unlink()
    VqaV2().check(root)
    (path,) = VqaV2().submission(VqaV2().items(root), answers, tmp_path / "out")
    assert [record["question_id"] for record in json.loads(path.read_text())] == [9000, 9001]


def test_wrong_files(tmp_path):
    root = data_root(tmp_path, "vqav2")
    with pytest.raises(DataError, match="test2015: images"):
        VqaV2().check(root)
    questions = root / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json"
    edited(root / "vqav2/v2_mscoco_val2014_annotations.json", '"question_id": 7000', '"question_id": 7001')
    with pytest.raises(DataError, match="record 2: question 7000 has no annotation"):
        VqaV2Val().items(root)
    edited(questions, '"image_id": 42', '"image_id": "kite"')
    with pytest.raises(DataError, match="record 0: image_id is 'kite'"):
        VqaV2Val().items(root)
    edited(questions, "val2014", "train2014")
    with pytest.raises(DataError, match="data_subtype is 'train2014', expected 'val2014'"):
        VqaV2Val().items(root)
