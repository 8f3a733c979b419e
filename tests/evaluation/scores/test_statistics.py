import math

import numpy as np
import pytest

from llava_mocle.evaluation.scores.statistics import bootstrap_interval, paired_difference_interval


@pytest.mark.parametrize(("n", "p"), [(100, 0.5), (400, 0.9), (2000, 0.37)])
def test_interval_of_proportions_is_the_normal_one(n, p):
    """The normal approximation, 1.96 standard errors; measured worst difference 0.004 at n = 100."""
    scores = [1.0] * round(n * p) + [0.0] * (n - round(n * p))
    low, high = bootstrap_interval(scores)
    error = 1.96 * math.sqrt(p * (1 - p) / n)
    assert low == pytest.approx(p - error, abs=0.012)
    assert high == pytest.approx(p + error, abs=0.012)


def test_soft_scores_against_plain_resampling():
    scores = np.random.default_rng(1).choice([0, 1 / 3, 2 / 3, 1], size=300)
    rng = np.random.default_rng(2)
    means = [rng.choice(scores, size=scores.size).mean() for _ in range(4000)]
    assert bootstrap_interval(scores.tolist()) == pytest.approx(np.percentile(means, [2.5, 97.5]).tolist(), abs=0.006)


def test_the_same_scores_always_get_the_same_interval():
    assert bootstrap_interval([1, 0, 1, 1]) == bootstrap_interval([1, 0, 1, 1])
    assert bootstrap_interval([1.0] * 5) == (1.0, 1.0)
    assert all(math.isnan(bound) for bound in bootstrap_interval([]))


def test_pairing_narrows_the_interval():
    before = [1.0, 0.0] * 100
    after = [1.0, 0.0] * 90 + [1.0, 1.0] * 10
    low, high = paired_difference_interval(before, after)
    assert 0 < low < 0.05 < high < 0.09
    with pytest.raises(ValueError, match="200 before, 199 after"):
        paired_difference_interval(before, after[1:])
