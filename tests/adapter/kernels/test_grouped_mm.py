import pytest
import torch

from llava_mocle.adapter.kernels import grouped_mm
from tests.adapter.kernels.loops import ALIGNED, check, dtypes, reads


@dtypes
@pytest.mark.parametrize("sizes", ALIGNED.values(), ids=ALIGNED)
def test_equals_the_loops(sizes, dtype):
    # Each choice's product is rounded, and so is the result after each is added.
    check(grouped_mm.SEGMENTS, sizes, dtype, rounding=2 * len(sizes.table[0]))


def test_sizes_that_the_kernel_cannot_take_have_a_reason():
    cpu = torch.device("cpu")
    assert grouped_mm.why_not(cpu, torch.bfloat16, (8, 24, 40)) is None
    assert "rows of 12 numbers of bfloat16" in grouped_mm.why_not(cpu, torch.bfloat16, (8, 12, 40))
    assert grouped_mm.why_not(cpu, torch.float32, (8, 12, 40)) is None


@pytest.mark.parametrize(
    ("capability", "dtype", "reason"),
    [
        ((9, 0), torch.bfloat16, None),
        ((10, 0), torch.bfloat16, None),
        ((8, 0), torch.bfloat16, "compute capability"),
        ((12, 0), torch.bfloat16, "compute capability"),
        ((9, 0), torch.float16, "takes bfloat16, not float16"),
    ],
)
def test_only_hopper_and_blackwell_have_the_kernel(monkeypatch, capability, dtype, reason):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = grouped_mm.why_not(torch.device("cuda"), dtype, (8, 24, 40))
    assert found is None if reason is None else reason in found


def test_reads_nothing_back():
    assert reads(grouped_mm.SEGMENTS) == []
