import pytest
import torch

from llava_mocle.adapter.kernels import batched
from tests.adapter.kernels.loops import ALIGNED, ODD, check, close, combine, dtypes, operands, outer, reads

ALL = ODD | ALIGNED


@dtypes
@pytest.mark.parametrize("sizes", ALL.values(), ids=ALL)
def test_equals_the_loops(sizes, dtype):
    check(batched.SEGMENTS, sizes, dtype)


def test_adds_to_a_result_of_another_dtype_with_one_rounding():
    _, h, out, A, table = operands(ODD["universal"], torch.float32)
    found, expected = out.to(torch.bfloat16), out.to(torch.bfloat16).double()
    batched.combine(h, A, table, found)
    combine(h.double(), A.double(), table, expected)
    close(found, expected, 2.0**-8)


def test_sums_are_float32_under_autocast_too():
    x, h, _, _, table = operands(ODD["universal"], torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.empty(4, h.shape[2] // table.shape[1], x.shape[2])
        batched.outer(h, x, table, found)
    expected = torch.empty_like(found, dtype=torch.float64)
    outer(h.double(), x.double(), table, expected)
    close(found, expected, 2e-6)


def test_reads_nothing_back():
    assert reads(batched.SEGMENTS) == []
