"""How long a step takes over the ideal, by the order of samples: padding, and waiting for the slowest. Simulated.

A device computes its micro-batch padded to its longest sample, and all devices wait for the slowest of a step:

    step over the ideal = sum over steps of (max over devices of padded tokens) / (all real tokens / devices)

The orders:

- exact lengths, bytes / 4: global batches of one modality, sorted by length in pools (`GlobalBatchSampler`), by the
  number of tokens or by a quarter of the text's bytes;
- LLaVA's modality sampler (`group_by_modality_length`), told again: random global batches of one modality; the samples
  of one, longest first, each go to the device that has the fewest words so far and is not full. LLaVA counts words, and
  128 for an image;
- random;
- packed: random global batches without padding; each sample, longest first, goes to the device with the fewest tokens
  so far. This is the bound: real packs waste a little more, as they also have to fit a length.

The lengths are drawn like those of LLaVA-1.5's mix of 665,000 rows, at a quarter of its size by default. `SOURCES` says
how. The parts and their sizes are the mix's (arXiv 2310.03744, Table 7). What is said of their texts is an estimate:
log-normal tokens, and bytes a token that differ by part and by row (coordinates have few). An image takes 576 tokens, a
prompt 50, and a sample has at most 2048.

    OMP_NUM_THREADS=1 python -m benchmarks.length_balance
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.harness import machine
from llava_mocle.data.sampler import GlobalBatchSampler

IMAGE, LONGEST = 576, 2048
PROMPT, PROMPT_BYTES = 50, 220


@dataclass(frozen=True)
class Source:
    """A part of the mix.

    Attributes:
        thousands: of rows.
        tokens: of a row's turns, the median.
        spread: standard deviation of the logarithm of the tokens.
        bytes_a_token: the mean; a row differs from it by `ROW_SPREAD` of it, one standard deviation.
        image: whether its rows have one.
    """

    thousands: float
    tokens: float
    spread: float
    bytes_a_token: float
    image: bool = True


SOURCES = {
    "LLaVA conversation": Source(58, 260, 0.45, 4.4),
    "LLaVA detail": Source(23, 140, 0.25, 4.6),
    "LLaVA reasoning": Source(77, 190, 0.25, 4.7),
    "ShareGPT": Source(40, 1000, 0.95, 3.6, image=False),
    "VQAv2": Source(83, 150, 0.55, 3.3),
    "GQA": Source(72, 230, 0.55, 3.5),
    "OKVQA": Source(9, 55, 0.4, 3.8),
    "OCR-VQA": Source(80, 140, 0.25, 3.7),
    "A-OKVQA": Source(66, 75, 0.25, 3.4),
    "TextCaps": Source(22, 65, 0.3, 3.5),
    "RefCOCO": Source(48, 330, 0.6, 2.8),
    "Visual Genome": Source(86, 390, 0.5, 2.6),
}
ROW_SPREAD = 0.08
BYTES_A_WORD = 6


@dataclass(frozen=True)
class Rows:
    """Of each row: `tokens` of its sample, `quarter_bytes` (with 576 for an image) and `words` (with 128), `image`."""

    tokens: np.ndarray
    quarter_bytes: np.ndarray
    words: np.ndarray
    image: np.ndarray


def draw_rows(share: float, seed: int = 0) -> Rows:
    """Rows of every source in proportion, in no order."""
    chance = np.random.default_rng(seed)
    parts = []
    for source in SOURCES.values():
        count = round(source.thousands * 1000 * share)
        turns = source.tokens * np.exp(source.spread * chance.standard_normal(count))
        size = turns * source.bytes_a_token * (1 + ROW_SPREAD * chance.standard_normal(count))
        taken = IMAGE * source.image
        tokens = np.minimum(taken + PROMPT + turns, LONGEST).round()
        words = size / BYTES_A_WORD + 128 * source.image
        parts.append([tokens, taken + (PROMPT_BYTES + size) / 4, words, np.full(count, source.image)])
    tokens, quarter_bytes, words, image = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = chance.permutation(len(tokens))
    return Rows(tokens[order].astype(int), quarter_bytes[order].astype(int), words[order].astype(int), image[order] > 0)


# An order: of each step, (devices, samples of a device) indices.
Steps = Iterator[np.ndarray]


def grouped(rows: Rows, lengths: np.ndarray, devices: int, batch: int) -> Steps:
    sampler = GlobalBatchSampler(lengths, rows.image, devices * batch, drop_last=True)
    yield from np.array(list(sampler)).reshape(-1, devices, batch)


def shuffled(rows: Rows, devices: int, batch: int) -> Steps:
    yield from _whole(np.random.default_rng(1).permutation(len(rows.tokens)), devices * batch).reshape(
        -1, devices, batch
    )


def modality(rows: Rows, devices: int, batch: int) -> Steps:
    chance = np.random.default_rng(1)
    steps = []
    for wanted in (True, False):
        members = chance.permutation(np.flatnonzero(rows.image == wanted))
        steps += list(_whole(members, devices * batch).reshape(-1, devices * batch))
    for step in chance.permutation(len(steps)):
        yield _evened(steps[step], rows.words, devices, most=batch)


def packed_tokens(rows: Rows, devices: int, batch: int) -> float:
    """The sum over steps of the largest number of real tokens on a device."""
    total = 0
    for step in shuffled(rows, devices, batch):
        held = np.zeros(devices)
        for length in sorted(rows.tokens[step.ravel()], reverse=True):
            held[held.argmin()] += length
        total += held.max()
    return total


def _evened(samples: np.ndarray, lengths: np.ndarray, devices: int, most: int) -> np.ndarray:
    """Longest first, each to the device that has the least and is not full: (devices, most)."""
    held, parts = np.zeros(devices), [[] for _ in range(devices)]  # type: ignore[var-annotated]
    for sample in samples[np.argsort(-lengths[samples], kind="stable")]:
        device = int(held.argmin())
        parts[device].append(sample)
        held[device] = np.inf if len(parts[device]) == most else held[device] + lengths[sample]
    return np.array(parts)


def _whole(order: np.ndarray, size: int) -> np.ndarray:
    return order[: len(order) // size * size]


@dataclass(frozen=True)
class Balance:
    """Over the ideal: a step, its padding (all devices alike), and the wait for the slowest."""

    step: float
    padding: float

    @classmethod
    def of(cls, steps: Steps, tokens: np.ndarray) -> Balance:
        slowest = padded = real = 0.0
        devices = 1
        for step in steps:
            of_device = tokens[step].max(axis=1) * step.shape[1]
            devices = len(of_device)
            slowest, padded, real = slowest + of_device.max(), padded + of_device.sum(), real + tokens[step].sum()
        return cls(slowest * devices / real, padded / real)


def balances(rows: Rows, devices: int, batch: int) -> dict[str, Balance]:
    """By order, the one that is built first."""
    ways: dict[str, Callable[[], Steps]] = {
        "exact lengths": lambda: grouped(rows, rows.tokens, devices, batch),
        "bytes / 4": lambda: grouped(rows, rows.quarter_bytes, devices, batch),
        "LLaVA's modality sampler": lambda: modality(rows, devices, batch),
        "random": lambda: shuffled(rows, devices, batch),
    }
    found = {name: Balance.of(way(), rows.tokens) for name, way in ways.items()}
    # Without the samples that fill no step.
    real = sum(rows.tokens[step].sum() for step in shuffled(rows, devices, batch))
    found["packed (the bound)"] = Balance(packed_tokens(rows, devices, batch) * devices / real, 1.0)
    return found


def main() -> None:
    """Print a table for 16 samples a device on 8 devices, and one for a single device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.25, help="of the mix's 665,000 rows")
    parser.add_argument("--batch", type=int, default=16, help="samples of a device in a step")
    args = parser.parse_args()
    rows = draw_rows(args.share)
    print(f"{machine()}\n{len(rows.tokens):,} rows, {rows.tokens.mean():.0f} tokens on average, simulated\n")
    for devices in (8, 1):
        print(f"{args.batch} samples a device, {devices} device{'s' * (devices > 1)}\n")
        print("| order | step over the ideal | padding | waiting |\n|---|---|---|---|")
        for name, found in balances(rows, devices, args.batch).items():
            print(f"| {name} | {found.step:.3f} | {found.padding:.3f} | {found.step / found.padding:.3f} |")
        print()


if __name__ == "__main__":
    main()
