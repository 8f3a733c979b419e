"""Replies of judges: tables worked from the official texts, and these texts step by step beside our code."""

import random

import pytest

from llava_mocle.evaluation.metrics.judge_replies import correctness_grade, review_scores


def official_pair(review):
    """`parse_score` of eval_gpt_review_bench.py; its [-1, -1] is None here."""
    try:
        parts = review.split("\n")[0].replace(",", " ").split(" ")
        return (float(parts[0]), float(parts[1])) if len(parts) == 2 else None
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("8 6", (8.0, 6.0)),
        ("8,6", (8.0, 6.0)),
        ("8.5 6\nThe first is better.", (8.5, 6.0)),
        (".5 10", (0.5, 10.0)),
        ("8 9\t", (8.0, 9.0)),
        ("8 9\r\nBoth", (8.0, 9.0)),
        ("-1 8", (-1.0, 8.0)),
        # Three parts, of which one is empty.
        ("8, 9", None),
        ("8 9 ", None),
        (" 8 9", None),
        ("8  9", None),
        # Not two numbers, or not on the first line, or not cut by a space.
        ("8", None),
        ("8 9 10", None),
        ("8/10 9/10", None),
        ("8\t9", None),
        ("\n8 9", None),
        ("Scores: 8 9", None),
        ("8 9.", (8.0, 9.0)),
        ("eight nine", None),
        ("", None),
    ],
)
def test_reviews(reply, scores):
    assert review_scores(reply) == official_pair(reply) == scores


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("0.7", 0.7),
        (".5", 0.5),
        ("1", 1.0),
        ("1.", 1.0),
        ("0", 0.0),
        ("0.5\n", 0.5),
        ("0.5 because", 0.5),
        ("1e-1", 0.1),
        # Nothing stands before the first space; more than a number does; out of 0 to 1.
        (" 0.7", None),
        ("0.5, as", None),
        ("0.5\nThe answer", None),
        ("1.1", None),
        ("-0.1", None),
        ("10", None),
        ("Score", None),
        ("", None),
    ],
)
def test_grades(reply, grade):
    assert correctness_grade(reply) == official_grade(reply) == grade


def official_grade(reply):
    """The reading in mm-vet_evaluator.py's `runs`."""
    try:
        score = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return None if score > 1.0 or score < 0.0 else score


def test_any_reply_as_the_sources_read_it():
    rng = random.Random(0)
    for _ in range(3000):
        reply = "".join(rng.choice("0123789.. ,\n\t-+ex") for _ in range(rng.randrange(7)))
        assert review_scores(reply) == official_pair(reply), reply
        assert correctness_grade(reply) == official_grade(reply), reply


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_what_is_no_finite_number_is_not_read(number):
    assert review_scores(f"{number} 8") is None
    assert review_scores(f"8 {number}") is None
    assert correctness_grade(number) is None
