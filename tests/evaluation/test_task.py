"""Metrics with their intervals, and what a task says of missing files."""

import numpy as np
import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.task import mean_metric, resampled_metric
from tests.evaluation.toy import Letters


def test_mean_metric() -> None:
    metric = mean_metric([1.0, 0.0, 1.0, 1.0])
    assert metric.value == 75.0
    assert metric.n == 4
    assert metric.items == (1.0, 0.0, 1.0, 1.0)
    assert metric.interval is not None
    assert 0 <= metric.interval[0] < 75 < metric.interval[1] <= 100
    assert mean_metric([]).value is None


def test_resampling_draws_whole_units() -> None:
    """Two images of two questions each, one image all right and one all wrong: a mean of 0, 50 or 100, nothing else."""
    correct = np.array([1, 1, 0, 0])
    drawn = []

    def statistic(rows: np.ndarray) -> float:
        drawn.append(float(correct[rows].mean()))
        return drawn[-1]

    metric = resampled_metric(["a", "a", "b", "b"], statistic)
    assert metric.value == 50.0
    assert set(drawn) == {0.0, 0.5, 1.0}
    assert metric.interval == (0.0, 100.0)


def test_the_interval_holds_95_percent_of_the_draws() -> None:
    values = np.arange(20.0) ** 2
    rng = np.random.default_rng(5)
    drawn = sorted(float(np.mean([values[index] for index in rng.integers(20, size=20)])) for _ in range(1000))
    # 2.5 % and 97.5 % of the way from the first to the last of 1000: at 24.975 and at 974.025.
    low = drawn[24] + 0.975 * (drawn[25] - drawn[24])
    high = drawn[974] + 0.025 * (drawn[975] - drawn[974])
    metric = resampled_metric(range(20), lambda rows: float(values[rows].mean()), scale=1.0, seed=5)
    assert metric.interval == pytest.approx((low, high))


def test_undefined_draws_are_left_out_of_the_interval() -> None:
    metric = resampled_metric(range(4), lambda rows: float("nan") if len(set(rows)) < 3 else 0.5)
    assert metric.interval == (50.0, 50.0)
    assert resampled_metric([], lambda rows: 1.0).value is None


def test_missing_files_are_all_named(tmp_path) -> None:
    with pytest.raises(
        DataError, match=r"2 of its files are missing(.|\n)*letters\.json: the questions, from the test"
    ):
        Letters().check(tmp_path)
