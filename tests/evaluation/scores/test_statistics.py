import math

import numpy as np
import pytest

from llava_mocle.evaluation.scores.statistics import RESAMPLES, SEED, bootstrap_interval, paired_difference_interval


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


@pytest.mark.parametrize(
    ("scores", "interval"),
    [
        ([1, 0, 1, 1], (0.25, 1.0)),
        ([0.3, 1, 0, 1 / 3, 0.6, 0.6, 0.9] * 9, (0.4518386243386244, 0.6121957671957671)),
        ([1.0] * 130 + [0.0] * 270, (0.28, 0.37)),
    ],
)
def test_intervals_of_means_are_those_of_earlier_results(scores, interval):
    """Two results compare only if their intervals are made alike: from the same draws, to the last bit."""
    found = bootstrap_interval(scores)
    assert found == pytest.approx(interval, rel=1e-12)
    distinct, counts = np.unique(np.array(scores, dtype=np.float64), return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(scores), counts / len(scores), size=2000)
    tail = 100 * (1 - 0.95) / 2
    assert found == tuple(np.percentile(draws @ distinct / len(scores), [tail, 100 - tail]))


def test_the_same_scores_always_get_the_same_interval():
    assert bootstrap_interval([1, 0, 1, 1]) == bootstrap_interval([1, 0, 1, 1])
    assert bootstrap_interval([1.0] * 5) == (1.0, 1.0)
    assert all(math.isnan(bound) for bound in bootstrap_interval([]))
    assert all(math.isnan(bound) for bound in bootstrap_interval([], np.mean, strata=[]))


def test_any_statistic_is_that_of_a_plain_loop():
    pairs = np.random.default_rng(3).random((40, 2))
    rng = np.random.default_rng(SEED)
    ratios = []
    for _ in range(RESAMPLES):
        sample = [pairs[index] for index in rng.integers(40, size=40)]
        ratios.append(sum(pair[1] for pair in sample) / sum(pair[0] for pair in sample))
    found = bootstrap_interval(pairs, lambda drawn: drawn[:, 1].sum() / drawn[:, 0].sum())
    assert found == pytest.approx(np.percentile(ratios, [2.5, 97.5]).tolist(), rel=1e-12)


def test_the_interval_holds_95_percent_of_the_resamples():
    values = np.arange(20.0) ** 2
    rng = np.random.default_rng(SEED)
    drawn = sorted(float(np.mean([values[index] for index in rng.integers(20, size=20)])) for _ in range(2000))
    # 2.5 % and 97.5 % of the way from the first to the last of 2000: at 49.975 and at 1949.025.
    low = drawn[49] + 0.975 * (drawn[50] - drawn[49])
    high = drawn[1949] + 0.025 * (drawn[1950] - drawn[1949])
    assert bootstrap_interval(values, np.mean) == pytest.approx((low, high))


def test_rows_are_drawn_whole():
    """Two images of two questions each, one image all right and one all wrong: a mean of 0, 0.5 or 1, nothing else."""
    drawn = []

    def statistic(rows: np.ndarray) -> float:
        drawn.append(float(rows.mean()))
        return drawn[-1]

    assert bootstrap_interval([[1, 1], [0, 0]], statistic) == (0.0, 1.0)
    assert set(drawn) == {0.0, 0.5, 1.0}


def test_resamples_without_a_value_are_left_out():
    assert bootstrap_interval(range(4), lambda rows: math.nan if len(set(rows)) < 3 else 0.5) == (0.5, 0.5)
    assert all(math.isnan(bound) for bound in bootstrap_interval(range(4), lambda rows: math.nan))


def test_every_stratum_keeps_its_number_of_items():
    labels = np.array(list("aababbb"))
    seen = []

    def statistic(rows: np.ndarray) -> float:
        seen.append((np.count_nonzero(labels[rows] == "a"), np.count_nonzero(labels[rows] == "b")))
        return 1.0

    bootstrap_interval(range(7), statistic, strata=labels.tolist())
    assert set(seen) == {(3, 4)}


def test_means_of_strata_are_summed():
    scores = np.random.default_rng(4).choice([0.0, 50.0, 200.0], size=90)
    strata = ["a"] * 60 + ["b"] * 30
    rng = np.random.default_rng(5)
    sums = [rng.choice(scores[:60], 60).mean() + rng.choice(scores[60:], 30).mean() for _ in range(4000)]
    expected = np.percentile(sums, [2.5, 97.5])
    assert bootstrap_interval(scores, strata=strata) == pytest.approx(expected.tolist(), abs=3)

    def statistic(rows: np.ndarray) -> float:
        return rows[rows[:, 1] == 0, 0].mean() + rows[rows[:, 1] == 1, 0].mean()

    labelled = np.column_stack([scores, np.repeat([0, 1], [60, 30])])
    assert bootstrap_interval(labelled, statistic, strata=strata) == pytest.approx(expected.tolist(), abs=3)
    assert bootstrap_interval(scores, strata=["a"] * 90) == bootstrap_interval(scores)


def test_pairing_narrows_the_interval():
    before = [1.0, 0.0] * 100
    after = [1.0, 0.0] * 90 + [1.0, 1.0] * 10
    low, high = paired_difference_interval(before, after)
    assert 0 < low < 0.05 < high < 0.09
    with pytest.raises(ValueError, match="200 before, 199 after"):
        paired_difference_interval(before, after[1:])
