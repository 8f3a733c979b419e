"""The order of samples in an epoch, in whole global batches. Only the seed and the epoch decide it."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

# So many batches are sorted by length together. More make the batches more even, and less random.
_POOL_BATCHES = 50


class GlobalBatchSampler(Sampler[int]):
    """Yields every index exactly once an epoch, in runs of `batch_size` that each make one optimizer step.

    `batch_size` = device batch x accumulation steps x processes. As long as this product is the same, each step has the
    same samples on any number of processes. The last run is filled up with *fillers*, -(i + 1) for a filler of sample i
    (`RowDataset` gives that sample without labels), so that all processes step through the same number of batches
    and no sample counts twice. Resuming needs no state: the order follows from (`seed`, epoch).

    With `grouped`, rows with and without images never share a batch, except for the few of each that do not fill one:
    these come together at the end.

    Within a run, samples stand in the order of falling lengths. So the micro-batches that the ranks compute at the same
    time are neighbours in length. All ranks wait for the one with the longest sample; the sum of these longest lengths
    is least when the samples are sorted, whichever rank has which.

    On lengths like those of LLaVA-1.5's mix, with 16 samples a device on 8, a step takes 1.02 of what it would take
    without padding and waiting (`benchmarks/length_balance.py`, simulated). Packing would take 1.01. It is not built:
    exact lengths give most of it, and the samples of a pack are kept apart by restarted `position_ids`, which only some
    attention kernels follow exactly.

    Args:
        lengths: of each sample, in tokens.
        has_image: for each sample, whether it has an image.
        batch_size: samples of one optimizer step over all processes.
        seed: the order's seed.
        grouped: batches of one modality and similar length; otherwise of samples drawn at random.
        drop_last: leave the last run out if it is not full, instead of filling it up.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        has_image: Sequence[bool] | np.ndarray,
        batch_size: int,
        seed: int = 0,
        *,
        grouped: bool = True,
        drop_last: bool = False,
    ) -> None:
        if len(lengths) != len(has_image):
            raise ValueError(f"{len(lengths)} lengths for {len(has_image)} samples; both describe the same dataset")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.lengths = torch.as_tensor(lengths, dtype=torch.long)
        self.has_image = torch.as_tensor(has_image, dtype=torch.bool)
        self.batch_size = batch_size
        self.seed = seed
        self.grouped = grouped
        self.drop_last = drop_last
        self.epoch = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.lengths), self.batch_size)
        return (whole + (rest > 0 and not self.drop_last)) * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; every process must choose the same."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        # Seeds that differ by one must not give one run's epoch 1 the order of another's epoch 0.
        generator.manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = self._in_batches(torch.arange(len(self.lengths)), generator)
        missing = len(self) - len(order)
        if missing > 0:
            order = torch.cat([order, -(order[-1:] + 1).expand(missing)])
        yield from order[: len(self)].tolist()

    def _in_batches(self, samples: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Samples in the order in which they are met: batch after batch, what fills no batch at the end."""
        if not self.grouped:
            return self._sorted(samples[torch.randperm(len(samples), generator=generator)])
        batches: list[torch.Tensor] = []
        rest: list[torch.Tensor] = []
        for wanted in (True, False):
            members = samples[self.has_image[samples] == wanted]
            whole, left = self._group(members, generator)
            batches += whole
            rest.append(left)
        order = torch.randperm(len(batches), generator=generator).tolist()
        return torch.cat([batches[position] for position in order] + [self._sorted(torch.cat(rest))])

    def _sorted(self, samples: torch.Tensor) -> torch.Tensor:
        """The same batches, each in the order of falling lengths."""
        return torch.cat([self._longest_first(batch) for batch in samples.split(self.batch_size)])

    def _longest_first(self, samples: torch.Tensor) -> torch.Tensor:
        return samples[torch.argsort(self.lengths[samples], descending=True, stable=True)]

    def _group(self, members: torch.Tensor, generator: torch.Generator) -> tuple[list[torch.Tensor], torch.Tensor]:
        """One modality's indices -> whole batches, and what fills none."""
        members = members[torch.randperm(len(members), generator=generator)]
        whole = len(members) // self.batch_size * self.batch_size
        members, rest = members[:whole], members[whole:]
        # If all samples were in one pool, every epoch would have the same batches.
        pool = self.batch_size * max(1, min(_POOL_BATCHES, len(members) // (self.batch_size * 4)))
        batches: list[torch.Tensor] = []
        for part in members.split(pool) if whole else []:
            batches += self._longest_first(part).split(self.batch_size)
        return batches, rest
