"""The loops over runs, which a CPU runs, against loops over single samples."""

import pytest
import torch

from llava_mocle.adapter.kernels import loops
from tests.adapter.kernels.loops import ALIGNED, ODD, check

# One that is joined, whatever its rank, and one that is not.
JOINED = {"joined": 64, "choice by choice": 0}


@pytest.mark.parametrize("sizes", [*ODD.values(), *ALIGNED.values()], ids=[*ODD, *ALIGNED])
@pytest.mark.parametrize("joined", JOINED.values(), ids=JOINED)
# A sum over the runs of a slot, and over the choices of a sample, is rounded after each.
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1), (torch.bfloat16, 4), (torch.float16, 4)])
def test_equal_the_definition(sizes, joined, dtype, rounding, monkeypatch):
    monkeypatch.setattr(loops, "_JOINED_RANK", joined)
    check(loops.segments_of(torch.tensor(sizes.table), sizes.rank), sizes, dtype, rounding=rounding)


def test_neighbours_with_the_same_choices_make_a_run(monkeypatch):
    table = torch.tensor([[2, 4], [2, 4], [0, 4], [2, 4]])
    joined = loops.runs_of(table, 1)
    assert joined == [(0, 2, 0, (2, 4)), (2, 3, 0, (0, 4)), (3, 4, 0, (2, 4))]
    apart = loops.runs_of(table, loops._JOINED_RANK + 1)
    assert apart == [(0, 2, 0, (2,)), (2, 3, 0, (0,)), (3, 4, 0, (2,)), (0, 4, 1, (4,))]
