"""VQA's file format: questions and annotations from two files, and the accuracies."""

import json

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.shared.vqa_format import given_texts, vqa_items, vqa_metrics

QUESTIONS = {"data_subtype": "val2014", "questions": [{"image_id": 7, "question": "Is it?", "question_id": 70}]}
ANSWERS = [{"answer": "yes", "raw_answer": "Yes!"}] * 2 + [{"answer": "no", "raw_answer": "No"}]


def items(folder, questions=QUESTIONS, question_id=70):
    (folder / "q.json").write_text(json.dumps(questions))
    annotation = {"question_id": question_id, "answer_type": "yes/no", "answers": ANSWERS}
    (folder / "a.json").write_text(json.dumps({"annotations": [annotation]}))
    found = vqa_items(folder / "q.json", folder / "a.json", folder / "images", "COCO_", "llava", subtype="val2014")
    return list(found)


def test_items(tmp_path):
    (item,) = items(tmp_path)
    assert item.question.question_id == 70
    assert item.question.images == (tmp_path / "images/COCO_000000000007.jpg",)
    assert item.keys == {"answer_type": "yes/no"}
    assert given_texts([item]) == [["yes", "yes", "no"]]
    assert given_texts([item], "raw_answer") == [["Yes!", "Yes!", "No"]]
    (unknown,) = vqa_items(tmp_path / "q.json", None, tmp_path, "COCO_", "llava", subtype="val")
    assert unknown.reference is None


def test_metrics_by_hand(tmp_path):
    asked = items(tmp_path) * 2
    metrics = vqa_metrics(asked, ["Yes.", None], types=("yes/no", "other"))
    # Two of three said yes. Leaving one out: once 2/3, twice 1/3, so 4/9. With all three: 2/3. Silence is wrong.
    assert list(metrics)[:3] == ["accuracy", "accuracy_upload", "accuracy_min3"]
    assert metrics["accuracy"].items == pytest.approx((4 / 9, 0.0))
    assert metrics["accuracy_upload"].items == pytest.approx((4 / 9, 0.0))
    assert metrics["accuracy_min3"].items == pytest.approx((2 / 3, 0.0))
    assert metrics["accuracy_yes_no"].n == 2
    assert metrics["accuracy_other"].value is None


def test_files_of_another_split(tmp_path):
    with pytest.raises(DataError, match=r"q\.json: data_subtype is 'test', expected 'val2014'"):
        items(tmp_path, QUESTIONS | {"data_subtype": "test"})
    with pytest.raises(DataError, match=r"question 70 has no annotation in .*a\.json"):
        items(tmp_path, question_id=71)
