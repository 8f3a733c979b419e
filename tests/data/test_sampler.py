import math
import random
from collections import Counter

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader

from llava_mocle.data.sampler import GlobalBatchSampler


def sampler(count: int = 1000, batch_size: int = 16, seed: int = 3) -> GlobalBatchSampler:
    chance = random.Random(0)
    lengths = [chance.randint(10, 2000) for _ in range(count)]
    return GlobalBatchSampler(lengths, [chance.random() < 0.7 for _ in range(count)], batch_size, seed)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize(("count", "batch_size"), [(1000, 16), (7, 16), (1, 1), (64, 1), (0, 4), (33, 32)])
def test_every_index_exactly_once_an_epoch(count: int, batch_size: int, grouped: bool) -> None:
    made = sampler(count, batch_size)
    made.grouped = grouped
    for epoch in range(3):
        made.set_epoch(epoch)
        order = list(made)
        assert len(order) == len(made) == -(-count // batch_size) * batch_size
        assert sorted(index for index in order if index >= 0) == list(range(count))
        assert all(index < 0 for index in order[count:])  # fillers, of a sample of the last batch
        assert {-index - 1 for index in order[count:]} <= set(order[count - 1 : count])
    made.drop_last = True
    kept = list(made)
    assert len(kept) == len(made) == len(set(kept)) == count // batch_size * batch_size
    assert all(index >= 0 for index in kept)


@pytest.mark.parametrize(("processes", "device_batch", "accumulation"), [(1, 12, 1), (2, 3, 2), (3, 4, 1), (2, 1, 6)])
def test_any_number_of_processes_steps_through_the_same_samples(
    processes: int, device_batch: int, accumulation: int
) -> None:
    # 77 = 6 steps of 12 and a rest of 5; as accelerate deals batches out to processes.
    made = sampler(77, 12)
    made.set_epoch(1)
    alone = list(made)
    batches = BatchSampler(made, device_batch, drop_last=False)
    shards = [list(BatchSamplerShard(batches, processes, rank)) for rank in range(processes)]
    assert len({len(shard) for shard in shards}) == 1
    for step in range(7):
        seen = [
            index
            for shard in shards
            for batch in shard[step * accumulation : (step + 1) * accumulation]
            for index in batch
        ]
        assert sorted(seen) == sorted(alone[12 * step : 12 * (step + 1)])
    counts = Counter(index for shard in shards for batch in shard for index in batch if index >= 0)
    assert counts == Counter(range(77))


def test_batches_are_of_one_modality_but_for_the_rests() -> None:
    made = sampler()
    order = torch.tensor(list(made))
    images = int(made.has_image.sum())
    whole = images // 16 + (1000 - images) // 16
    batches = order[: whole * 16].split(16)
    modalities = [set(made.has_image[batch].tolist()) for batch in batches]
    assert all(len(found) == 1 for found in modalities)
    # Mixed over the epoch: not all image batches first.
    assert {True} in modalities[: whole // 4]
    assert {False} in modalities[: whole // 4]


def test_batches_are_of_similar_length() -> None:
    made = sampler()
    batches = torch.tensor(list(made)).split(16)[:-3]
    spread = torch.stack([made.lengths[batch].float().std() for batch in batches]).mean()
    assert spread < 0.3 * made.lengths.float().std()
    firsts = torch.tensor([float(made.lengths[batch].float().mean()) for batch in batches])
    rank = torch.corrcoef(torch.stack([firsts, torch.arange(len(firsts)).float()]))[0, 1]
    assert rank.abs() < 0.5  # lengths don't run in order through the epoch


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize(("processes", "device_batch", "accumulation"), [(2, 4, 2), (4, 2, 2), (4, 4, 1), (1, 2, 8)])
def test_ranks_that_step_together_have_similar_lengths(
    processes: int, device_batch: int, accumulation: int, grouped: bool
) -> None:
    """What all ranks wait for in a step is the least that its samples allow: by sorting, as a plain list."""
    made = sampler(count=1003, batch_size=16)
    made.grouped = grouped
    batches = BatchSampler(made, device_batch, drop_last=False)
    shards = [list(BatchSamplerShard(batches, processes, rank)) for rank in range(processes)]
    chance = random.Random(1)

    def waited(windows: list[list[int]]) -> int:
        return sum(max(window) for window in windows)

    for step in range(len(made) // 16):
        micro = range(step * accumulation, (step + 1) * accumulation)
        # A filler is as long as its sample.
        lengths = [[int(made.lengths[max(i, ~i)]) for shard in shards for i in shard[m]] for m in micro]
        every = sorted((length for window in lengths for length in window), reverse=True)
        width = processes * device_batch
        assert waited(lengths) == sum(every[start] for start in range(0, 16, width))
        # No other deal is better.
        for _ in range(3):
            other = chance.sample(every, len(every))
            assert waited(lengths) <= waited([other[start : start + width] for start in range(0, 16, width)])


def test_a_step_is_close_to_one_without_padding_and_waiting() -> None:
    """60,000 lengths like LLaVA's, 16 a device on 8: what all devices wait for, over what there is to compute."""
    chance = random.Random(2)
    lengths = [min(2048, 626 + int(200 * math.exp(chance.gauss(0, 0.6)))) for _ in range(60_000)]
    made = GlobalBatchSampler(lengths, [True] * len(lengths), 128, drop_last=True)
    order = list(made)
    waited = sum(16 * max(lengths[i] for i in order[start : start + 128]) for start in range(0, len(order), 128))
    assert waited / (sum(lengths[i] for i in order) / 8) < 1.04


def test_order_follows_from_seed_and_epoch() -> None:
    first, again, other = sampler(), sampler(), sampler(seed=4)
    orders = []
    for epoch in (0, 1):
        for made in (first, again, other):
            made.set_epoch(epoch)
        assert list(first) == list(again)
        orders += [list(first), list(other)]
    assert len({tuple(order) for order in orders}) == 4
    # Iterating changes nothing: a run resumed in epoch 1 gets epoch 1's order without having seen epoch 0.
    fresh = sampler()
    fresh.set_epoch(1)
    assert list(fresh) == orders[2]


def test_epochs_make_other_batches() -> None:
    made = sampler(count=64, batch_size=16)
    found = []
    for epoch in (0, 1):
        made.set_epoch(epoch)
        found.append({frozenset(batch.tolist()) for batch in torch.tensor(list(made)).split(16)})
    assert found[0] != found[1]


def test_through_accelerate_epochs_differ_and_all_processes_agree() -> None:
    """`Trainer` hands the sampler to accelerate, which must find `set_epoch` and split whole batches."""
    from accelerate.data_loader import prepare_data_loader

    made = sampler(count=128, batch_size=8)
    made.set_epoch(5)
    expected = list(made)
    parts = []
    for process in range(2):
        loader = DataLoader(list(range(128)), batch_size=4, sampler=sampler(count=128, batch_size=8))
        prepared = prepare_data_loader(loader, num_processes=2, process_index=process, put_on_device=False)
        prepared.set_epoch(5)
        parts.append(list(prepared.batch_sampler))
    joined = [index for pair in zip(*parts, strict=True) for batch in pair for index in batch]
    assert joined == expected


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="3 lengths for 2"):
        GlobalBatchSampler([1, 2, 3], [True, False], 2)
    with pytest.raises(ValueError, match="batch_size is 0"):
        GlobalBatchSampler([1], [True], 0)
