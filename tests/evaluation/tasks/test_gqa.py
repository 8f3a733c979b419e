import json

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.gqa import Gqa
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = ["gqa/data/images/n1.jpg", "gqa/data/images/n2.jpg", "gqa/data/images/n3.jpg"]


def test_prompts_in_the_files_order(tmp_path):
    root = data_root(tmp_path, "gqa")
    items = ready_items(Gqa(), root, IMAGES)
    assert [item.question.question_id for item in items] == ["20100001", "20100002", "20100003", "20100004"]
    assert items[0].question.prompt == "Is the kite red?\nAnswer the question using a single word or phrase."
    assert Gqa().items(root, "instructblip")[0].question.prompt == "Question: Is the kite red? Short answer:"


@pytest.mark.parametrize(
    ("texts", "right", "unparsed"),
    [
        (["No.", "left", "Red", "dog"], (1, 1, 1, 1), 0),
        # No word is looked for inside an answer, no article dropped; white space and the case don't count.
        (["not", "the left", " red ", "dog."], (0, 0, 1, 1), 0),
        (["", ".", "röd", "2"], (0, 0, 0, 0), 2),
    ],
)
def test_exact_match(tmp_path, texts, right, unparsed):
    items = Gqa().items(data_root(tmp_path, "gqa"))
    scores = Gqa().score(items, answers_to(items, texts))
    assert scores.metrics["accuracy"].items == right
    assert scores.metrics["accuracy"].value == 25 * sum(right)
    # "choose" is binary, as in the official script; only "query" is open.
    assert scores.metrics["accuracy_binary"].items == (right[0], right[3])
    assert scores.metrics["accuracy_open"].items == right[1:3]
    assert scores.unparsed == unparsed


@pytest.mark.parametrize(
    ("prompts", "first", "second", "scorer"),
    [("llava", "accuracy", "accuracy_lavis", ""), ("instructblip", "accuracy", "accuracy_llava", "LAVIS")],
)
def test_the_prompts_decide_whose_scorer_leads(tmp_path, prompts, first, second, scorer):
    items = Gqa().items(data_root(tmp_path, "gqa"), prompts)
    scores = Gqa().score(items, answers_to(items, ["No.", "the left", "", "cat"]))
    assert (scores.headline, Gqa().scorer(items)) == (first, scorer)
    # LAVIS takes "the left" for "left".
    llava, lavis = (1, 0, 0, 0), (1, 1, 0, 0)
    lead, other = (llava, lavis) if prompts == "llava" else (lavis, llava)
    assert (scores.metrics[first].items, scores.metrics[second].items) == (lead, other)
    assert scores.metrics["accuracy_open"].items == lead[1:3]


def test_submission(tmp_path):
    items = Gqa().items(data_root(tmp_path, "gqa"))
    (path,) = Gqa().submission(items, answers_to(items, ["No.", "Left", "", "the Dog"]), tmp_path / "out")
    assert path.name == "testdev_balanced_predictions.json"
    assert json.loads(path.read_text())[:3] == [
        {"questionId": "20100001", "prediction": "no"},
        {"questionId": "20100002", "prediction": "left"},
        {"questionId": "20100003", "prediction": ""},
    ]


def test_wrong_files(tmp_path):
    root = data_root(tmp_path, "gqa")
    path = root / "gqa/data/testdev_balanced_questions.json"
    edited(path, '"isBalanced": true', '"isBalanced": false')
    with pytest.raises(DataError, match="question 20100001: isBalanced is false"):
        Gqa().items(root)
    path.write_text("[]")
    with pytest.raises(DataError, match="a list, expected an object"):
        Gqa().items(root)
