import pytest

from llava_mocle.evaluation.metrics.exact import gqa_match, gqa_match_lavis, vqa_match


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("Yes.", "yes", 1.0),
        ("YES", "yes", 1.0),
        ("yes..", "yes", 1.0),
        (" left \n", "left", 1.0),
        ("the left", "left", 0.0),
        ("yes, it is", "yes", 0.0),
        ("St. Louis", "st. louis", 1.0),
        ("t-shirt", "t shirt", 0.0),
        ("two", "2", 0.0),
        ("", "yes", 0.0),
        ("", "", 0.0),
        (".", "", 0.0),
    ],
)
def test_gqa(answer, reference, score):
    assert gqa_match(answer, reference) == score


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("Yes.", "yes", 1.0),
        # Both sides are normalised: articles, number words, punctuation.
        ("the left", "left", 1.0),
        ("left", "the left", 1.0),
        ("two", "2", 1.0),
        ("t-shirt", "t shirt", 1.0),
        ("yes, it is", "yes", 0.0),
        ("", "yes", 0.0),
        ("", "", 0.0),
        ("the", "a", 0.0),
    ],
)
def test_gqa_as_lavis_scores_it(answer, reference, score):
    assert gqa_match_lavis(answer, reference) == score


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("A man.", "man", 1.0),
        ("two", "2", 1.0),
        ("t-shirt", "t shirt", 1.0),
        ("man", "men", 0.0),
        ("a man", "a man walking", 0.0),
        ("", "the", 0.0),
    ],
)
def test_after_vqa_normalisation(answer, reference, score):
    assert vqa_match(answer, reference) == score
