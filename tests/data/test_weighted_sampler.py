import random
from collections import Counter
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from llava_mocle.data.weighted_sampler import ROUND_BATCHES, WeightedBatchSampler

SIZES = (600, 30, 7)


def sampler(
    weights: tuple[float, ...] = (5, 2, 1), batch_size: int = 8, steps: int = 500, seed: int = 3
) -> WeightedBatchSampler:
    """Samples of three datasets; those of the second have no image."""
    chance = random.Random(0)
    datasets = [dataset for dataset, size in enumerate(SIZES) for _ in range(size)]
    lengths = [chance.randint(10, 2000) for _ in datasets]
    return WeightedBatchSampler(
        lengths, [dataset != 1 for dataset in datasets], datasets, weights, batch_size, steps, seed
    )


def of_dataset(index: int) -> int:
    return next(dataset for dataset, end in enumerate(accumulate(SIZES)) if index < end)


def test_frequencies_are_the_weights() -> None:
    """4,000 draws at 5 : 2 : 1 are 2,500, 1,000 and 500: exact, as all three are whole numbers."""
    order = list(sampler())
    assert len(order) == len(sampler()) == 4000
    assert Counter(map(of_dataset, order)) == {0: 2500, 1: 1000, 2: 500}


@pytest.mark.parametrize("weights", [(25.0, 5.5, 2.6), (1e-6, 1.0, 1e6), (1.0, 1.0, 1.0)])
def test_frequencies_after_every_round(weights: tuple[float, ...]) -> None:
    """Off by at most 0.5 + share x datasets / 2 draws (the bound of Webster's method), however long the run is."""
    order = list(map(of_dataset, sampler(weights, steps=3 * ROUND_BATCHES + 17)))
    for end in [*range(0, len(order), ROUND_BATCHES * 8), len(order)]:
        found = Counter(order[:end])
        for dataset, weight in enumerate(weights):
            share = weight / sum(weights)
            assert abs(found[dataset] - share * end) <= 0.5 + share * 3 / 2 + 1e-6


def test_turns_by_websters_method_worked_by_hand() -> None:
    """Shares 0.75 and 0.25. The first's draws have places 0.67, 2, 3.33, 4.67, the second's 2, 6. By place: first,
    first (a tie), second, first, first; so of 1, 2, 3, 4, 5 draws 1, 2, 2, 3, 4 are of the first.
    """
    for number, expected in enumerate((1, 2, 2, 3, 4), start=1):
        made = WeightedBatchSampler([9] * 20, [True] * 20, [0] * 10 + [1] * 10, [3, 1], number, 1)
        assert sum(index < 10 for index in made) == expected


def test_every_sample_of_a_dataset_once_before_any_again() -> None:
    order = list(sampler())
    times = Counter(order)
    # 2,500 draws of 600 samples: 4 or 5 each. 1,000 of 30: 33 or 34. 500 of 7: 71 or 72.
    ends = [0, *accumulate(SIZES)]
    for dataset, (start, end) in enumerate(pairwise(ends)):
        found = {times[index] for index in range(start, end)}
        least = (2500, 1000, 500)[dataset] // SIZES[dataset]
        assert found <= {least, least + 1}


def test_passes_have_orders_of_their_own() -> None:
    """Without grouping by length, so that the order of one dataset is that of its passes."""
    made = sampler((1.0, 1e-9, 1e-9), steps=3 * SIZES[0] // 8)
    made.grouped = False
    orders = [list(made)[start : start + 600] for start in (0, 600, 1200)]
    assert orders[0] != orders[1] != orders[2]
    other = sampler((1.0, 1e-9, 1e-9), steps=3 * SIZES[0] // 8, seed=4)
    other.grouped = False
    assert list(other) != list(made)


def test_the_order_follows_from_the_seed_alone() -> None:
    first, again = sampler(), sampler()
    again.set_epoch(5)
    assert list(first) == list(first) == list(again)
    assert list(sampler(seed=4)) != list(first)
    # Seeds that differ by one have nothing in common, in any round.
    rounds = [torch.tensor(list(sampler(seed=seed))).split(ROUND_BATCHES * 8) for seed in (3, 4)]
    assert not any(torch.equal(one, other) for one in rounds[0] for other in rounds[1] if len(one) == len(other))


def test_batches_are_of_one_modality_but_for_one_a_round() -> None:
    made = sampler()
    batches = torch.tensor(list(made)).split(8)
    mixed = [len(set(made.has_image[batch].tolist())) > 1 for batch in batches]
    assert sum(mixed) <= 3  # rounds: 200, 200 and 100 batches
    spread = torch.stack([made.lengths[batch].float().std() for batch in batches]).mean()
    assert spread < 0.3 * made.lengths.float().std()


@pytest.mark.parametrize(("processes", "device_batch", "accumulation"), [(1, 8, 1), (2, 2, 2), (4, 1, 2)])
def test_any_number_of_processes_steps_through_the_same_samples(
    processes: int, device_batch: int, accumulation: int
) -> None:
    made = sampler(steps=45)
    alone = list(made)
    batches = BatchSampler(made, device_batch, drop_last=False)
    shards = [list(BatchSamplerShard(batches, processes, rank)) for rank in range(processes)]
    for step in range(45):
        seen = [
            index
            for shard in shards
            for batch in shard[step * accumulation : (step + 1) * accumulation]
            for index in batch
        ]
        assert sorted(seen) == sorted(alone[8 * step : 8 * (step + 1)])


def test_no_filler_is_needed() -> None:
    assert min(sampler(steps=201)) >= 0
    assert not np.isin(-1, list(sampler(steps=1)))


def test_a_dataset_without_samples_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="dataset 1 has no samples"):
        WeightedBatchSampler([1, 2], [True, True], [0, 0], [1, 1], 2, 3)
