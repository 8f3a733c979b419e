import math

import numpy as np
import pytest
from sklearn import metrics

from llava_mocle.evaluation.metrics.binary import f1, roc_auc, yes_no_mme, yes_no_pope, yes_probability


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", "yes"),
        ("No", "no"),
        ("no", "no"),
        ("No.", "no"),
        ("No, there is no snowboard.", "no"),
        ("There is not a snowboard in the image", "no"),
        ("There is, no doubt, a dog", "no"),
        # only the first sentence
        ("Yes. There is not a cat.", "yes"),
        ("I see a dog. No cat.", "yes"),
        (". No", "yes"),
        # whole words, and only these three spellings
        ("nothing", "yes"),
        ("I know", "yes"),
        ("cannot", "yes"),
        ("NO", "yes"),
        ("Not at all", "yes"),
        ("No!", "yes"),
        ("isn't", "yes"),
        # words are cut at spaces alone
        ("No\nreally", "yes"),
        ("", "yes"),
        ("\u4e0d", "yes"),
        ("1", "yes"),
    ],
)
def test_pope(text, expected):
    assert yes_no_pope(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", "yes"),
        ("YES.", "yes"),
        ("no", "no"),
        ("No, it is not.", "no"),
        # letters within the first four characters, inside words too
        ("Nothing", "no"),
        ("know", "no"),
        ("Eyes", "yes"),
        ("cannot", None),
        (" yes", "yes"),
        ("  yes", None),
        ("  no", "no"),
        ("A: yes", None),
        # the two do not both fit into four characters
        ("noyes", "no"),
        ("yes or no", "yes"),
        ("no yes", "no"),
        ("", None),
        ("maybe", None),
        ("1", None),
        ("\u662f\u7684", None),
    ],
)
def test_mme(text, expected):
    assert yes_no_mme(text) == expected


def test_f1_by_hand():
    truth = [True, True, True, False, False, False, False]
    said = [True, False, True, True, False, False, False]
    assert f1(truth, said) == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(10))
def test_against_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth, said = rng.random(97) < 0.6, rng.random(97) < rng.random()
    assert f1(truth, said) == pytest.approx(metrics.f1_score(truth, said, zero_division=0), abs=1e-12)


def test_nothing_to_divide_by():
    nobody = [False, False]
    assert f1(nobody, nobody) == f1([], []) == 0.0
    with pytest.raises(ValueError, match="3 labels for 2 answers"):
        f1([True] * 3, [True] * 2)


def pairwise_auc(truth, scores):
    pairs = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high, yes in zip(scores, truth, strict=True)
        for low, other in zip(scores, truth, strict=True)
        if yes and not other
    ]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_auc_is_the_share_of_pairs_in_order(levels):
    """Few levels make many ties, which count half."""
    rng = np.random.default_rng(levels)
    truth, scores = rng.random(60) < 0.4, rng.integers(0, levels, size=60) / levels
    assert roc_auc(truth, scores) == pytest.approx(pairwise_auc(truth, scores), abs=1e-12)
    assert roc_auc(truth, scores) == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-12)


def test_auc_at_the_edges():
    assert roc_auc([True, False], [0.9, 0.1]) == 1.0
    assert roc_auc([True, False], [0.1, 0.9]) == 0.0
    assert roc_auc([True, False, True], [0.5, 0.5, 0.5]) == 0.5
    assert roc_auc([True, False], [math.inf, -math.inf]) == 1.0
    assert math.isnan(roc_auc([True, True], [0.1, 0.9]))
    assert math.isnan(roc_auc([], []))
    with pytest.raises(ValueError, match="2 labels for 1 scores"):
        roc_auc([True, False], [0.1])
    with pytest.raises(ValueError, match="score 1 is nan"):
        roc_auc([True, False], [0.1, math.nan])


def test_yes_probability():
    assert yes_probability([math.log(0.3)], [math.log(0.1)]) == pytest.approx(0.75)
    # "yes" 0.2 and "true" 0.1 against "no" 0.1
    assert yes_probability([math.log(0.2), math.log(0.1)], [math.log(0.1)]) == pytest.approx(0.75)
    assert yes_probability([-2000.0], [-2000.0]) == 0.5
    assert yes_probability([-5.0], [-math.inf]) == 1.0
    assert yes_probability([-2000.0], [0.0]) == 0.0
    assert math.isnan(yes_probability([-math.inf], [-math.inf]))
    with pytest.raises(ValueError, match="0 texts for yes"):
        yes_probability([], [0.0])
