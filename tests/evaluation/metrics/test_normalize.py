import pytest

from llava_mocle.evaluation.metrics.normalize import exact_match, normalize_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Circle.", "circle"),
        ("  the   Blue\ncircle!! ", "blue circle"),
        ("An apple, a pear", "apple pear"),
        ("theatre", "theatre"),
        ("A", "a"),
        ("a.", "a"),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("1,000", "1000"),
        ("1, 000", "1 000"),
        ("1,2", "1 2"),
        ("-3", "-3"),
        ("\u22123.5 cm", "-3.5 cm"),
        ("5-3", "5 3"),
        ("x-ray", "x ray"),
        ("don't", "dont"),
        ("don\u2019t", "dont"),
        ("50%", "50%"),
        ("90°", "90°"),
        ("x + y = 3", "x + y = 3"),
        ("(B)", "b"),
        ("\uff11\uff12", "12"),
        ("É", "é"),
        ("E\u0301", "é"),
        ("", ""),
        ("...", ""),
        ("T1-weighted", "t1 weighted"),
    ],
)
def test_normalize(text, expected):
    assert normalize_answer(text) == expected
    assert normalize_answer(normalize_answer(text)) == expected


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("Yes.", "yes", 1.0),
        ("yes, there is", "yes", 0.0),
        ("", "yes", 0.0),
        ("", "", 0.0),
        ("...", "!", 0.0),
        ("3", "-3", 0.0),
        ("The red square", "red square", 1.0),
    ],
)
def test_exact_match(answer, reference, score):
    assert exact_match(answer, reference) == score
