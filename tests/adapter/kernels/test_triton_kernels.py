"""The kernels on a GPU where there is one, else in Triton's interpreter; and compiled for GPUs that are not there."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
import torch

from tests.adapter.kernels.loops import ALIGNED, ODD, Sizes, check, close, combine, operands

pytest.importorskip("triton", reason="triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAME = "llava_mocle.adapter.kernels.triton_kernels"


def load(monkeypatch_context: pytest.MonkeyPatch, interpreted: bool) -> ModuleType:
    """A copy of the module of its own: what the kernels become is decided when they are imported."""
    monkeypatch_context.setenv("TRITON_INTERPRET", "1" if interpreted else "0")
    spec = importlib.util.find_spec(NAME)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kernels():
    with pytest.MonkeyPatch.context() as context:
        yield load(context, interpreted=DEVICE == "cpu")


@pytest.mark.parametrize("sizes", (ODD | ALIGNED).values(), ids=ODD | ALIGNED)
def test_equals_the_loops(kernels, sizes):
    check(kernels.SEGMENTS, sizes, torch.float32, DEVICE)


# The interpreter cuts off what bfloat16 cannot hold, where a GPU rounds to the nearest.
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 1), (torch.bfloat16, 2)], ids=["float16", "bfloat16"])
def test_half_precision_equals_the_loops(kernels, dtype, rounding):
    check(kernels.SEGMENTS, ODD["universal"], dtype, DEVICE, rounding)


def test_adds_to_a_result_of_another_dtype_with_one_rounding(kernels):
    _, h, out, A, table = operands(ODD["universal"], torch.float32, DEVICE)
    found, expected = out.to(torch.float16), out.to(torch.float16).double()
    kernels.combine(h, A, table, found)
    combine(h.double(), A.double(), table, expected)
    close(found, expected, 2.0**-11)


def test_the_same_call_gives_the_same_bits(kernels):
    x, h, _, _, table = operands(Sizes(5, 9, 20, 4, 2, [[0], [0], [0], [0], [0]]), torch.float32, DEVICE)
    first, second = torch.empty(2, 2, 4, 20)
    for out in (first, second):
        kernels.outer(h, x, table, out)
    assert torch.equal(first, second)


def test_float32_is_multiplied_as_torch_does_it(kernels):
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        for setting in ("ieee", "tf32"):
            torch.backends.cuda.matmul.fp32_precision = setting
            assert kernels._precision() == setting
        torch.backends.cuda.matmul.allow_tf32 = False
        assert kernels._precision() == "ieee"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert kernels._precision() == "ieee"


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "dtype"), [(80, "fp32"), (90, "bf16")])
def test_compiles_for_a_gpu(capability, dtype, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module = load(monkeypatch, interpreted=False)
    shared_memory = {80: 163 * 1024, 90: 227 * 1024}[capability]
    for kernel in (module._project, module._combine, module._outer):
        # The smallest blocks: larger ones take up to half a minute each.
        assert compiled(kernel, kernel.configs[-1], dtype, capability) <= shared_memory


def compiled(kernel, config, dtype: str, capability: int) -> int:
    """Compile a kernel as Triton does for rank 128, a universal expert and aligned rows; the shared memory it takes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = kernel.fn
    fixed = {**config.kwargs, "PRECISION": "tf32", "ADDED": True, "rank": 128, "choices": 2}
    # Triton compiles a stride of 1 in.
    fixed |= dict.fromkeys(("x_feature", "h_rank", "out_feature", "weight_feature"), 1)
    pointers = {"table": "*i64", "sums": "*fp32"} | dict.fromkeys(("x", "h", "weight", "out"), f"*{dtype}")
    signature, aligned = {}, {}
    for index, name in enumerate(function.arg_names):
        signature[name] = "constexpr" if name in fixed else pointers.get(name, "i32")
        if name not in fixed and (name in pointers or name == "width" or "_" in name.removesuffix("_class")):
            aligned[(index,)] = [["tt.divisibility", 16]]
    constants = {(function.arg_names.index(name),): value for name, value in fixed.items() if name in signature}
    result = triton.compile(
        ASTSource(function, signature, constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": config.num_warps, "num_stages": config.num_stages},
    )
    return result.metadata.shared
