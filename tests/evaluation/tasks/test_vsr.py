import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.vsr import Vsr
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = [f"vsr/images/00000000000{number}.jpg" for number in (1, 2, 3)]


def test_statements_are_ranked(tmp_path):
    root = data_root(tmp_path, "vsr")
    items = ready_items(Vsr(), root, IMAGES)
    assert [item.question.question_id for item in items] == [0, 1, 2, 3]
    assert items[0].question.prompt == (
        'Based on the image, is this statement true or false? "The cat is under the table."\n'
        "Answer the question using a single word or phrase."
    )
    assert items[0].question.candidates == ("Yes", "True", "No", "False")
    paper = Vsr().items(root, "instructblip")
    assert paper[1].question.prompt == (
        'Based on the image, is this statement true or false? "The dog is facing the "café"." Answer:'
    )
    assert paper[1].question.candidates == ("yes", "true", "no", "false")


def test_accuracy(tmp_path):
    items = ready_items(Vsr(), data_root(tmp_path, "vsr"), IMAGES)
    ranked = [
        [-1, -9, -2, -9],  # true, and so it is
        [-2, -2, -1.5, -9],  # No is the likeliest word, but yes and true together weigh 0.271 against 0.223: wrong
        [-1, -9, -1, -9],  # a tie: wrong
        [-5, -5, -1, -3],  # false, and so it is
    ]
    scores = Vsr().score(items, answers_to(items, ["Yes", "No", "Yes", "No"], ranked))
    assert scores.metrics["accuracy"].items == (1, 0, 0, 1)
    assert scores.metrics[scores.headline].value == 50


def test_answers_without_scores_are_refused(tmp_path):
    items = ready_items(Vsr(), data_root(tmp_path, "vsr"), IMAGES)
    with pytest.raises(DataError, match=r"record 0: .* question 0 should hold 4 scores .* found none"):
        Vsr().score(items, answers_to(items, ["Yes"] * 4))
    with pytest.raises(DataError, match=r"found \[-1, -2\]"):
        Vsr().score(items, answers_to(items, ["Yes"] * 4, [[-1, -2]] * 4))


def test_bad_label(tmp_path):
    root = data_root(tmp_path, "vsr")
    edited(root / "vsr/splits/zeroshot/test.jsonl", '"label": 0, "relation": "facing"', '"label": "no"')
    with pytest.raises(DataError, match=r"test\.jsonl, record 1: field 'label' is 'no', expected 0"):
        Vsr().items(root)
