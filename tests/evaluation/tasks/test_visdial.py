import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.visdial import FILE, VisDial
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = [f"visdial/VisualDialog_val2018/VisualDialog_val2018_{number:012d}.jpg" for number in (7, 8, 42)]


def test_the_last_round_is_asked_with_the_earlier_ones_as_history(tmp_path):
    root = data_root(tmp_path, "visdial")
    items = ready_items(VisDial(), root, IMAGES)
    assert [item.question.question_id for item in items] == [42, 7, 8]
    history = "Dialog history: q: is it in color a: yes q: how many kites a: 2\n"
    assert items[0].question.prompt == (history + "is it sunny\nAnswer the question using a single word or phrase.")
    assert items[0].question.candidates == ("no", "yes", "i can't tell")
    paper = VisDial().items(root, "instructblip")
    assert paper[0].question.prompt == history + " Question: is it sunny Short answer:"
    assert paper[0].question.route_text is None


def test_reciprocal_ranks(tmp_path):
    items = VisDial().items(data_root(tmp_path, "visdial"))
    # The gold options are 0, 2 and 0: first; third of four; a tie, in which the gold option comes last.
    ranked = [[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0, -4.0], [-5.0, -5.0]]
    scores = VisDial().score(items, answers_to(items, ["no", "yes", "no"], ranked))
    assert scores.metrics["mrr"].items == pytest.approx((1, 1 / 3, 1 / 2))
    assert scores.metrics["mrr"].value == pytest.approx(100 * (1 + 1 / 3 + 1 / 2) / 3)


def test_answers_that_were_not_ranked(tmp_path):
    items = VisDial().items(data_root(tmp_path, "visdial"))
    with pytest.raises(DataError, match="42"):
        VisDial().score(items, answers_to(items, ["no", "yes", "no"]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"split": "val"', '"split": "test"', r"expected \('1.0', 'val'\)"),
        ('"version": "1.0"', '"version": "0.9"', r"expected \('1.0', 'val'\)"),
        ('"gt_index": 2', '"gt_index": 9', "record 1: gt_index is 9, expected 0 to 3"),
        ('"answer_options"', '"options"', "record 0: no 'answer_options'"),
        ('"answer": 0', '"answer": 99', "record 0: 99"),
    ],
)
def test_wrong_files(tmp_path, old, new, message):
    root = data_root(tmp_path, "visdial")
    edited(root / FILE, old, new)
    with pytest.raises(DataError, match=message):
        VisDial().items(root)
