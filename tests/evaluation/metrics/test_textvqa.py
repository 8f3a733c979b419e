import pytest

from llava_mocle.evaluation.metrics.textvqa import normalize_evalai, textvqa_accuracy
from llava_mocle.evaluation.metrics.vqa import normalize_vqa, soft_accuracy


@pytest.mark.parametrize(
    ("text", "evalai", "vqa"),
    [
        # Commas and question marks vanish instead of becoming spaces.
        ("red,blue", "redblue", "red blue"),
        ("what?now", "whatnow", "what now"),
        ("red,", "red", "red"),
        # No comma between digits is left to drop the other marks.
        ("1,000-2", "1000 2", "10002"),
        ("x-ray 1,000", "x ray 1000", "xray 1000"),
        # Once the comma is gone, the mark before it touches a letter, not a space.
        ("(a), b-c", "b c", "b c"),
        # 's is a word of its own.
        ("Joe's", "joe 's", "joe's"),
        ("let's", "let 's", "let's"),
        ("JOE'S PIZZA", "joe 's pizza", "joe's pizza"),
        ("the 1990's", "1990 's", "1990's"),
        ("she's", "she 's", "she's"),
        # It is cut off before apostrophes are put back.
        ("somebodys", "somebody's", "somebody's"),
    ],
)
def test_where_it_differs_from_vqa(text, evalai, vqa):
    assert normalize_evalai(text) == evalai
    assert normalize_vqa(text) == vqa


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" ,? ", ""),
        ("The Two", "2"),
        ("10:30 a.m.", "10:30 am"),
        ("3.5%", "3.5%"),
        ("coca-cola", "coca cola"),
        ("coca - cola x-y", "coca cola xy"),
        ("dont\nwalk", "don't walk"),
        ("tab\there", "tab here"),
        ('"EXIT"', "exit"),
        ("caf\u00e9", "caf\u00e9"),
        ("www.a.com", "wwwacom"),
    ],
)
def test_where_it_is_the_same(text, expected):
    assert normalize_evalai(text) == normalize_vqa(text) == expected


def test_accuracy():
    annotations = ["joe's", "Joe 's", "joes", "joes", "joes"] + ["pizza"] * 5
    # Two agree under EvalAI's rules, one under VQA's.
    assert textvqa_accuracy("JOE'S", annotations) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert soft_accuracy("JOE'S", annotations) == pytest.approx(9 * (1 / 3) / 10)
    assert textvqa_accuracy("pizza?", annotations) == 1.0
    with pytest.raises(ValueError, match="annotators"):
        textvqa_accuracy("pizza", [])
