"""Cosines between datasets against their definition: plain loops over all ways to halve the batches."""

from itertools import combinations

import numpy as np
import pytest

from llava_mocle.analysis.transfer.gradient_cosines import _batches_needed, gradient_cosines, verdicts


def halvings(own: np.ndarray):
    """(first, second) mean gradients of every way to halve the batches (n, P) of a dataset."""
    number = len(own)
    for first in combinations(range(number), number // 2):
        second = [batch for batch in range(number) if batch not in first]
        yield own[list(first)].mean(axis=0), own[second].mean(axis=0)


def by_definition(gradients: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    size = len(gradients)
    within, length = np.zeros(size), np.zeros(size)
    for dataset, own in enumerate(gradients):
        pairs = list(halvings(own))
        within[dataset] = np.mean([first @ second for first, second in pairs])
        length[dataset] = np.mean([first @ first for first, _ in pairs])
    value, allowed = np.zeros((size, size)), np.ones((size, size))
    for one in range(size):
        for other in range(size):
            if one == other:
                value[one, one] = within[one] / length[one]
                continue
            firsts = [[half for half, _ in halvings(gradients[dataset])] for dataset in (one, other)]
            between = np.mean([a @ b for a in firsts[0] for b in firsts[1]])
            value[one, other] = between / np.sqrt(length[one] * length[other])
            allowed[one, other] = between / np.sqrt(within[one] * within[other])
    return value, allowed


def measured(gradients: list[np.ndarray]):
    stacked = np.concatenate(gradients)
    dataset_of = np.repeat(np.arange(len(gradients)), [len(own) for own in gradients])
    return gradient_cosines(stacked @ stacked.T, dataset_of, [f"set {place}" for place in range(len(gradients))])


def noisy(mean, number: int, noise: float, seed: int, size: int = 40) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.resize(np.asarray(mean, dtype=np.float64), size) + noise * generator.normal(size=(number, size))


def test_the_closed_form_is_the_mean_over_all_halvings() -> None:
    """Float64 sums in another order: 1e-12."""
    gradients = [noisy([1, 2, 0.5, -1], 6, 0.8, 0), noisy([1, -1, 2, 1], 4, 0.5, 1), noisy([-1, -2, 0, 1], 8, 0.4, 2)]
    value, allowed = by_definition(gradients)
    found = measured(gradients)
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.allowed == pytest.approx(allowed, abs=1e-12)
    assert found.batches == (6, 4, 8)


def test_without_noise_it_is_the_cosine() -> None:
    gradients = [
        noisy([3, 4], 4, 0.0, 0, size=2),
        noisy([4, -3], 4, 0.0, 0, size=2),
        noisy([-3, -4], 4, 0.0, 0, size=2),
    ]
    found = measured(gradients)
    expected = [[1, 0, -1], [0, 1, 0], [-1, 0, 1]]
    for values in (found.value, found.low, found.high, found.allowed, found.allowed_low, found.allowed_high):
        assert values == pytest.approx(np.array(expected), abs=1e-12)
    assert verdicts(found)[0].startswith("set 0 and set 2: cosine -1.00, which is -1.00 (-1.00 to -1.00) of what noise")
    assert verdicts(found)[0].endswith("they pull against each other here")


def test_what_noise_allows_takes_the_noise_out() -> None:
    """Two datasets of one direction, under noise as long as the gradient: far below 1, but all that noise allows."""
    mean = np.random.default_rng(3).normal(size=400)
    gradients = [noisy(mean, 16, 3.0, seed, size=400) for seed in (0, 1)]
    found = measured(gradients)
    assert found.value[0, 1] < 0.7
    assert found.allowed[0, 1] == pytest.approx(1.0, abs=0.2)
    assert found.allowed_low[0, 1] < 1 < found.allowed_high[0, 1]
    assert "they pull in one direction" in verdicts(found)[0]


def test_the_interval_covers_the_truth() -> None:
    """Of 60 drawn data sets, the 95 % interval of `allowed` holds the true cosine 0.6 in at least 50."""
    first = np.zeros(200)
    first[0], second = 6.0, np.zeros(200)
    second[:2] = 3.6, 4.8  # cosine 0.6
    hits = 0
    for seed in range(60):
        found = measured([noisy(first, 12, 0.5, 2 * seed, size=200), noisy(second, 12, 0.5, 2 * seed + 1, size=200)])
        hits += bool(found.allowed_low[0, 1] <= 0.6 <= found.allowed_high[0, 1])
    assert hits >= 50


def test_how_many_batches_are_needed() -> None:
    """Noise of length 5 around means of length 1: a half of 25 batches has as much of both, so 50 are needed."""
    mean = np.zeros(4000)
    mean[0] = 1.0
    gradients = [noisy(mean, 8, 5 / np.sqrt(4000), seed, size=4000) for seed in (0, 1)]
    needed = [_batches_needed(measured(gradients), dataset) for dataset in (0, 1)]
    assert needed == pytest.approx([50, 50], rel=0.3)  # estimated from 8 batches
    in_turn = np.outer([1, -1, 1, -1], np.ones(3))  # the batches of a dataset undo each other
    assert _batches_needed(measured([in_turn, in_turn]), 0) == np.inf


def test_a_dataset_without_gradient_has_no_cosine() -> None:
    found = measured([noisy([1.0], 4, 0.1, 0), np.zeros((4, 40))])
    for values in (found.value, found.low, found.allowed, found.allowed_high):
        assert np.isnan(values[0, 1])
    assert found.value[0, 0] > 0.9
    assert "one of them gives no gradient" in verdicts(found)[0]


def test_noise_alone_is_called_noise() -> None:
    gradients = [noisy([0.0], 4, 1.0, 0, size=500), noisy([0.0], 4, 1.0, 1, size=500)]
    found = measured(gradients)
    assert np.isnan(found.allowed_low[0, 1])
    assert "too noisy to tell" in verdicts(found)[0]
    assert "give more --batches" in verdicts(found)[0]
