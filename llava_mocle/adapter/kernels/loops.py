"""Each product a few plain ones, over runs of neighbouring samples that share their experts. What a CPU runs.

The runs are Python numbers, so the choices have to be known on the CPU.
"""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from llava_mocle.adapter.kernels.products import Segments

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


def segments_of(table: Tensor, rank: int) -> Segments:
    """The products for samples with these choices (B, C), on the CPU. They do not look at the table they are given."""
    runs = runs_of(table, rank)
    return Segments(
        "loops over runs", partial(_project, runs, table.shape[1]), partial(_combine, runs), partial(_outer, runs)
    )


def _project(runs: list[Run], choices: int, x: Tensor, weight: Tensor, _table: Tensor) -> Tensor:
    rank = weight.shape[1]
    hidden = x.new_empty(*x.shape[:2], choices * rank)
    for run in runs:
        torch.mm(_tokens(x, run), _joined(weight, run, x.dtype).t(), out=_columns(hidden, run, rank))
    return hidden


def _combine(runs: list[Run], hidden: Tensor, weight: Tensor, _table: Tensor, out: Tensor) -> None:
    rank = weight.shape[1]
    for run in runs:
        _rows(out, run).addmm_(_columns(hidden, run, rank), _joined(weight, run, hidden.dtype))


def _outer(runs: list[Run], hidden: Tensor, x: Tensor, _table: Tensor, out: Tensor) -> None:
    rank = out.shape[1]
    written: set[int] = set()
    for run in runs:
        left, right = _columns(hidden, run, rank).t(), _tokens(x, run)
        if len(run.slots) == 1 and out.dtype == hidden.dtype:
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


def _tokens(x: Tensor, run: Run) -> Tensor:
    """The tokens of a run's samples in x (B, T, n) of any strides, as a matrix to read."""
    return x[run.first : run.last].flatten(0, 1)


def _rows(x: Tensor, run: Run) -> Tensor:
    """The same of x without gaps, as a matrix to write into."""
    return x[run.first : run.last].view(-1, x.shape[-1])


def _columns(hidden: Tensor, run: Run, rank: int) -> Tensor:
    """The tokens of a run's samples in h (B, T, C * r), as a matrix of its choices' columns."""
    return _rows(hidden, run)[:, run.choice * rank : (run.choice + len(run.slots)) * rank]


def _joined(weight: Tensor, run: Run, dtype: torch.dtype) -> Tensor:
    """(slots of the run * r, n): the weights of these slots one below the other."""
    if len(run.slots) == 1:
        return weight[run.slots[0]].to(dtype)
    return torch.cat([weight[slot].to(dtype) for slot in run.slots])
