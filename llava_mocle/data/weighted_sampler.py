"""The order of samples where datasets are drawn by weight. Only the seed decides it."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from llava_mocle.data.sampler import GlobalBatchSampler

# Batches that are drawn, and then grouped, together. Four of the pools that are sorted by length.
ROUND_BATCHES = 200


class WeightedBatchSampler(GlobalBatchSampler):
    """Yields `steps` global batches, with samples of each dataset in proportion to its weight.

    Nothing is left to chance but the order. Datasets take turns by Webster's method: draw j of a dataset of share p has
    the place (j + 0.5) / p, and draws are taken by place. So after every `ROUND_BATCHES` batches, and at the end, each
    dataset has been drawn its share of times, give or take 0.5 + p x (datasets) / 2. Inside a dataset, every sample is
    drawn once before any is drawn again, in a fresh order each time. The draws of a round become batches as in
    `GlobalBatchSampler`, which also says what is the same on any number of processes. The whole run is one epoch, and
    resuming needs no state.

    Args:
        lengths, has_image, batch_size, seed, grouped: as in `GlobalBatchSampler`.
        datasets: for each sample, the id of its dataset.
        weights: (datasets,) the weight of each dataset.
        steps: how many batches.

    Raises:
        ValueError: a dataset without samples: its weight asks for some.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        has_image: Sequence[bool] | np.ndarray,
        datasets: Sequence[int] | np.ndarray,
        weights: Sequence[float] | np.ndarray,
        batch_size: int,
        steps: int,
        seed: int = 0,
        *,
        grouped: bool = True,
    ) -> None:
        super().__init__(lengths, has_image, batch_size, seed, grouped=grouped)
        ids = torch.as_tensor(datasets, dtype=torch.long)
        self.steps = steps
        self._members = [torch.nonzero(ids == dataset).flatten() for dataset in range(len(weights))]
        for dataset, members in enumerate(self._members):
            if not len(members):
                raise ValueError(f"dataset {dataset} has no samples to draw")
        self._shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: a run is one epoch."""

    def __iter__(self) -> Iterator[int]:
        passes = [_Passes(members, self.seed, dataset) for dataset, members in enumerate(self._members)]
        for index, start in enumerate(range(0, len(self), ROUND_BATCHES * self.batch_size)):
            number = min(len(self) - start, ROUND_BATCHES * self.batch_size)
            counts = _next_counts([each.drawn for each in passes], self._shares, number)
            samples = torch.cat([each.take(count) for each, count in zip(passes, counts, strict=True)])
            yield from self._in_batches(samples, _generator(self.seed, len(passes), index)).tolist()


def _next_counts(drawn: Sequence[int], shares: np.ndarray, number: int) -> list[int]:
    """How many of the next draws are of each dataset, by Webster's method; of equal places, the first dataset's."""
    places, owners = [], []
    for dataset, (start, share) in enumerate(zip(drawn, shares, strict=True)):
        # Two prefixes of the draws differ from their shares by at most 0.5 + share x datasets / 2 each.
        most = min(number, math.ceil(number * share) + len(shares) + 1)
        places.append((np.arange(start, start + most) + 0.5) / share)
        owners.append(np.full(most, dataset))
    first = np.argsort(np.concatenate(places), kind="stable")[:number]
    return np.bincount(np.concatenate(owners)[first], minlength=len(shares)).tolist()


class _Passes:
    """One dataset's samples, pass after pass, each in an order of its own."""

    def __init__(self, members: torch.Tensor, seed: int, dataset: int) -> None:
        self.drawn = 0
        self._members, self._seed, self._dataset = members, seed, dataset
        self._order = members[:0]

    def take(self, number: int) -> torch.Tensor:
        parts = []
        while number > 0:
            done, at = divmod(self.drawn, len(self._members))
            if at == 0:
                generator = _generator(self._seed, self._dataset, done)
                self._order = self._members[torch.randperm(len(self._members), generator=generator)]
            parts.append(self._order[at : at + number])
            self.drawn += len(parts[-1])
            number -= len(parts[-1])
        return torch.cat(parts) if parts else self._members[:0]


def _generator(seed: int, stream: int, index: int) -> torch.Generator:
    """A generator for each (seed, stream, index): none is like another's."""
    state = np.random.SeedSequence([seed, stream, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
