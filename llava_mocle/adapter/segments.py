"""The three products that a site's experts are made of, each a few plain products over runs of samples.

Sample b has C choices, `table[b]` (C,): the slots of its task experts and, last, of the universal expert. Hidden states
h are (B, T, C * r), the columns c * r to (c + 1) * r those of choice c.
"""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

# Up to this rank a sample's experts are joined to one product of rank C * r. A product of a few columns takes as long
# as one of several times as many. From there on, copying the experts beside each other costs more than it saves.
_JOINED_RANK = 32


class Run(NamedTuple):
    """Neighbouring samples, `first` to `last` - 1, whose choices from `choice` on are the experts of these slots."""

    first: int
    last: int
    choice: int
    slots: tuple[int, ...]


def runs_of(table: Tensor, rank: int) -> list[Run]:
    """The runs of a table (B, C) on the CPU: of all choices at once for a small rank, else choice by choice."""
    rows = table.tolist()
    if rank <= _JOINED_RANK:
        return _runs([tuple(row) for row in rows], 0)
    columns = zip(*rows, strict=True)
    return [run for choice, slots in enumerate(columns) for run in _runs([(slot,) for slot in slots], choice)]


def _runs(slots: list[tuple[int, ...]], choice: int) -> list[Run]:
    runs, first = [], 0
    for shared, members in groupby(slots):
        last = first + len(list(members))
        runs.append(Run(first, last, choice, shared))
        first = last
    return runs


def project(x: Tensor, weight: Tensor, runs: list[Run], choices: int) -> Tensor:
    """h[b, t, choice c] = weight[table[b, c]] x[b, t], for C = `choices`.

    Args:
        x: (B, T, k).
        weight: (slots, r, k) of any strides and dtype; computed in the dtype of x.
    """
    rank = weight.shape[1]
    hidden = x.new_empty(*x.shape[:2], choices * rank)
    for run in runs:
        torch.mm(_rows(x, run), _joined(weight, run, x.dtype).t(), out=_columns(hidden, run, rank))
    return hidden


def combine(hidden: Tensor, weight: Tensor, runs: list[Run], out: Tensor) -> None:
    """out[b, t] += sum over c of h[b, t, choice c] weight[table[b, c]], in place.

    Args:
        hidden: (B, T, C * r).
        weight: (slots, r, n) of any strides and dtype; computed in the dtype of `hidden`.
        out: (B, T, n), contiguous.
    """
    rank = weight.shape[1]
    for run in runs:
        _rows(out, run).addmm_(_columns(hidden, run, rank), _joined(weight, run, hidden.dtype))


def outer(own: Tensor, shared: Tensor, runs: list[Run], out: Tensor) -> None:
    """out[e] = sum over (b, c) with table[b, c] == e, and over t, of own[b, t, choice c] (outer) shared[b, t].

    Args:
        own: (B, T, C * r).
        shared: (B, T, n).
        out: (slots, r, n) of any strides and dtype, written over; zero in the slots that no sample chose.
    """
    rank = out.shape[1]
    written: set[int] = set()
    for run in runs:
        left, right = _columns(own, run, rank).t(), _rows(shared, run)
        if len(run.slots) == 1 and out.dtype == own.dtype:
            _product_into(out[run.slots[0]], left, right, run.slots[0] in written)
        else:
            product = torch.mm(left, right).split(rank)
            for slot, part in zip(run.slots, product, strict=True):
                out[slot].add_(part) if slot in written else out[slot].copy_(part)
                written.add(slot)
        written.update(run.slots)
    for slot in set(range(len(out))) - written:
        out[slot].zero_()


def _product_into(out: Tensor, left: Tensor, right: Tensor, add: bool) -> None:
    if out.stride(0) == 1:  # transposed in memory
        out, left, right = out.t(), right.t(), left.t()
    if add:
        out.addmm_(left, right)
    else:
        torch.mm(left, right, out=out)


def _rows(x: Tensor, run: Run) -> Tensor:
    """The tokens of a run's samples in x (B, T, n), as a matrix."""
    return x[run.first : run.last].view(-1, x.shape[-1])


def _columns(hidden: Tensor, run: Run, rank: int) -> Tensor:
    """The tokens of a run's samples in h (B, T, C * r), as a matrix of its choices' columns."""
    return _rows(hidden, run)[:, run.choice * rank : (run.choice + len(run.slots)) * rank]


def _joined(weight: Tensor, run: Run, dtype: torch.dtype) -> Tensor:
    """(slots of the run * r, n): the weights of these slots one below the other."""
    if len(run.slots) == 1:
        return weight[run.slots[0]].to(dtype)
    return torch.cat([weight[slot].to(dtype) for slot in run.slots])
