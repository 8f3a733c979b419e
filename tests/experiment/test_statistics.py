"""Intervals over questions and seeds, against hand-worked definitions, plain loops, scipy's t, and simulated data."""

import numpy as np
import pytest
from scipy import stats

from llava_mocle.experiment.statistics import Estimate, Resampled, Table, spread


def table(*rows: list[float], domain: str = "a") -> Table:
    return Table(tuple(range(len(rows))), {domain: np.array(rows, dtype=float)})


def test_values_are_plain_means() -> None:
    one = Table((0, 1), {"a": np.array([[1, 0, 1, 0], [1, 1, 1, 0]]), "b": np.array([[0, 1], [0, 0]])})
    other = Table((0,), {"a": np.array([[0, 0, 1, 0]]), "b": np.array([[1, 1]])})
    drawn = Resampled({"one": one, "other": other})
    assert drawn.score("one", "a").value == 5 / 8
    assert drawn.score("one").value == (5 / 8 + 1 / 4) / 2  # domains count alike, however many questions they have
    assert drawn.difference("one", "other", "a").value == 5 / 8 - 1 / 4
    assert drawn.difference("one", "other").value == pytest.approx((5 / 8 + 1 / 4) / 2 - (1 / 4 + 1) / 2)
    assert one.means()["b"].tolist() == [0.5, 0.0]


def test_a_share_is_the_definition() -> None:
    low, high, ours = (table([1] * count + [0] * (100 - count)) for count in (40, 60, 55))
    share = Resampled({"low": low, "high": high, "ours": ours}).share("ours", "low", "high")
    assert share.value == pytest.approx(0.75)
    assert share.interval is not None
    assert 0.4 < share.interval[0] < 0.75 < share.interval[1] <= 1  # ours is never beyond high on any question


def test_one_seed_is_the_usual_bootstrap_of_questions() -> None:
    """With one seed the draws are binomial: scipy's quantiles of n p successes, up to the noise of 4000 draws."""
    score = Resampled({"m": table([1] * 30 + [0] * 70)}).score("m", "a")
    expected = stats.binom.ppf([0.025, 0.975], 100, 0.3) / 100
    assert score.interval == pytest.approx(expected, abs=0.011)  # one success more or less


def test_seeds_alone_give_students_interval() -> None:
    """Every question scored alike within a seed leaves the seeds' spread alone. Its interval is Student's t."""
    means = np.array([0.31, 0.42, 0.36, 0.47, 0.38])
    interval = Resampled({"m": table(*np.repeat(means[:, None], 50, axis=1).tolist())}).score("m", "a").interval
    half = stats.t.ppf(0.975, 4) * means.std(ddof=1) / np.sqrt(5)
    assert interval is not None
    low, high = interval
    # Not normal: five values are drawn, and 4000 times.
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)
    assert (low + high) / 2 == pytest.approx(means.mean(), abs=0.15 * half)


def test_variance_of_the_draws_is_that_of_the_mean_over_seeds() -> None:
    """Without Student's tails, S - 1 of S draws give s^2 / S without bias: every outcome for S = 3, by a plain loop."""
    values = np.array([0.2, 0.5, 0.9])
    outcomes = [np.mean([values[i], values[j]]) for i in range(3) for j in range(3)]
    assert np.var(outcomes) == pytest.approx(values.var(ddof=1) / 3)


def test_paired_by_question() -> None:
    """Two methods that differ on six questions of 100, in the same direction: pairing sees it."""
    rng = np.random.default_rng(0)
    worse = (rng.random(100) < 0.5).astype(float)
    better = worse.copy()
    better[np.flatnonzero(worse == 0)[:6]] = 1
    drawn = Resampled({"worse": table(worse.tolist()), "better": table(better.tolist())})
    paired, alone = drawn.difference("better", "worse"), drawn.score("worse")
    assert paired.above_0
    assert paired.interval is not None
    assert alone.interval is not None
    assert paired.interval[1] - paired.interval[0] < 0.6 * (alone.interval[1] - alone.interval[0])


def test_seeds_are_drawn_for_all_domains_together() -> None:
    """The same seeds are drawn in all domains: the mean of two domains whose seeds move together spreads as one does,
    and that of domains that move against each other does not.
    """
    together = np.array([0.3, 0.5, 0.4, 0.6])[:, None] * np.ones((1, 20))
    against = 0.9 - together
    same = Resampled({"m": Table((0, 1, 2, 3), {"a": together, "b": together})})
    opposed = Resampled({"m": Table((0, 1, 2, 3), {"a": together, "b": against})})
    assert same.score("m").interval == pytest.approx(same.score("m", "a").interval)
    assert opposed.score("m").interval == pytest.approx((0.45, 0.45))


def test_another_method_leaves_the_intervals_alone() -> None:
    first = table([1, 0, 1, 1, 0], [1, 1, 0, 1, 0])
    alone = Resampled({"m": first}).score("m")
    beside = Resampled({"n": table([0, 0, 1, 0, 0]), "m": first}).score("m")
    assert alone == beside


def test_sides_of_an_estimate() -> None:
    assert Estimate(0.1, (0.01, 0.2)).above_0
    assert Estimate(-0.1, (-0.2, -0.01)).below_0
    straddling = Estimate(0.1, (-0.01, 0.2))
    assert not straddling.above_0
    assert not straddling.below_0
    assert not Estimate(0.1).above_0


def test_spread_is_the_sample_standard_deviation() -> None:
    assert spread([0.1, 0.3]) == pytest.approx(np.sqrt(0.02))
    assert spread([0.1]) is None


def simulated(rng: np.random.Generator, seeds: int, quality: float, difficulty: np.ndarray) -> Table:
    """Right or wrong by a logistic model of the question's difficulty, the method's quality and the seed's luck."""
    luck = rng.normal(0, 0.4, size=(seeds, 1))
    right = rng.random((seeds, len(difficulty))) < 1 / (1 + np.exp(-(quality + luck + difficulty)))
    return Table(tuple(range(seeds)), {"a": right.astype(float)})


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_intervals_cover(seeds: int) -> None:
    """Of experiments in which nothing differs, about 19 of 20 intervals hold 0.

    200 of them have a standard error of 0.015. Single answers are noise that counts twice, so a little more is covered.
    """
    rng = np.random.default_rng(seeds)
    held = 0
    for _ in range(200):
        difficulty = rng.normal(0, 1, size=60)
        tables = {name: simulated(rng, seeds, 0.0, difficulty) for name in ("one", "other")}
        interval = Resampled(tables, draws=400).difference("one", "other").interval
        assert interval is not None
        held += interval[0] <= 0 <= interval[1]
    assert 0.91 <= held / 200 <= 1.0


def test_a_scores_interval_ends_where_scores_do():
    """Two seeds that differ: Student's t with one degree of freedom reaches far beyond 0 and 1."""
    drawn = Resampled({"m": table([1] * 40, [1] * 10 + [0] * 30), "n": table([0] * 40, [0] * 40)})
    assert drawn.score("m").interval == (0.0, 1.0)
    low, high = drawn.difference("m", "n").interval
    assert low < 0
    assert high > 1
