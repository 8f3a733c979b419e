import math

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.hatefulmemes import HatefulMemes, HatefulMemesTest
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = [f"hatefulmemes/img/{number}.png" for number in ("08291", "46971", "03745", "83745")]


def test_prompts(tmp_path):
    root = data_root(tmp_path, "hatefulmemes")
    items = ready_items(HatefulMemes(), root, IMAGES)
    assert [item.question.question_id for item in items] == [8291, 46971, 3745, 83745]
    assert items[1].question.prompt == (
        'This is an image with: "when the cat says "no"" written on it. Is it hateful?\n'
        "Answer the question using a single word or phrase."
    )
    assert items[0].question.candidates == ("Yes", "No")
    paper = HatefulMemes().items(root, "instructblip")
    assert paper[2].question.prompt == 'This is an image with: "go away" written on it. Is it hateful? Answer:'
    assert paper[2].question.candidates == ("yes", "true", "no", "false")
    test = HatefulMemesTest().items(root)
    assert [(item.question.question_id, item.reference) for item in test] == [(16395, True), (37405, False)]


def test_area_under_the_curve(tmp_path):
    items = ready_items(HatefulMemes(), data_root(tmp_path, "hatefulmemes"), IMAGES)
    # Log-odds 2, 1, 1, -3 for labels 1, 0, 1, 0. Pairs (hateful, not): 2 > 1, 2 > -3, 1 = 1 (half), 1 > -3: 3.5 of 4.
    ranked = [[-1, -3], [-2, -3], [-0.5, -1.5], [-4, -1]]
    answers = answers_to(items, ["Yes", "Yes", "Yes", "No"], ranked)
    scores = HatefulMemes().score(items, answers)
    assert scores.metrics[scores.headline].value == pytest.approx(87.5)
    assert scores.metrics["accuracy"].items == (1, 0, 1, 1)
    one_class = HatefulMemes().score(items[:1], answers[:1]).metrics["roc_auc"]
    assert (one_class.value, one_class.interval, one_class.n) == (None, None, 1)
    nothing = HatefulMemes().score([], [])
    assert nothing.metrics["roc_auc"].value is None


def test_words_of_a_class_are_added_up(tmp_path):
    root = data_root(tmp_path, "hatefulmemes")
    items = HatefulMemes().items(root, "instructblip")
    ranked = [(-2, -2, -1.5, -9), (-1, -9, -1, -9), (-1, -9, -3, -3), (-9, -9, -1, -1)]
    answers = answers_to(items, ["yes"] * 4, ranked)
    odds = [HatefulMemes().read(item, answer) for item, answer in zip(items, answers, strict=True)]
    expected = [
        math.log((math.exp(yes) + math.exp(true)) / (math.exp(no) + math.exp(false))) for yes, true, no, false in ranked
    ]
    assert odds == pytest.approx(expected, abs=1e-12)  # float64, a few operations
    assert odds[0] > 0 > math.exp(-2) - math.exp(-1.5)  # either word alone would lose


def test_file_without_labels(tmp_path):
    root = data_root(tmp_path, "hatefulmemes")
    edited(root / "hatefulmemes/test_seen.jsonl", '"label": 0, ', "")
    with pytest.raises(DataError, match=r"test_seen\.jsonl, record 1: no 'label', only id, img, text"):
        HatefulMemesTest().items(root)
