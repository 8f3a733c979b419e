"""Triton kernels that read from the table which expert's rows they need: nothing is gathered, moved or waited for.

A sample's C experts of rank r count as one of rank C r, whose row j is row j % r of the expert at table[b, j // r].
So each of `project` and `combine` is a GEMM per sample that looks its weights up. `outer` is a GEMM per slot over the
tokens of the samples that chose it.

Importing this module needs triton. With TRITON_INTERPRET=1 at that time the kernels run on the CPU, for tests.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from llava_mocle.adapter.kernels.products import Segments

# Block sizes are tried on the first call of a shape. The larger ones suit Hopper and the A100; a GPU with too little
# shared memory for one skips it. The interpreter cannot measure: it has one, small enough that tests need several.
_INTERPRETED = triton.knobs.runtime.interpret


# Triton's own functions written in Triton, such as `cdiv` and `zeros`, are not used: whether those run in the
# interpreter was decided when triton was imported, maybe by torch.
# The interpreter would multiply the bits of bfloat16 as whole numbers.
_WIDENED = tl.constexpr(_INTERPRETED)


def _tried(*choices: tuple[int, int, int, int, int]) -> list[triton.Config]:
    """Configurations of (rows, columns, depth of a block; warps; stages)."""
    if _INTERPRETED:
        choices = ((16, 16, 16, 1, 1),)
    return [
        triton.Config({"ROWS": rows, "COLUMNS": columns, "DEPTH": depth}, num_warps=warps, num_stages=stages)
        for rows, columns, depth, warps, stages in choices
    ]


@triton.jit
def _added(a, b, total, PRECISION: tl.constexpr):
    """total + a b."""
    if _WIDENED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.autotune(
    _tried((128, 256, 64, 8, 3), (128, 128, 64, 8, 3), (64, 256, 64, 8, 3), (64, 64, 64, 4, 4), (32, 32, 128, 4, 4)),
    key=["width", "rank", "choices", "length_class"],
)
@triton.jit(do_not_specialize=["tokens", "length_class"])
def _project(
    x, weight, table, h,
    tokens, width, rank: tl.constexpr, choices: tl.constexpr, length_class,
    x_sample, x_token, x_feature,
    weight_slot, weight_rank, weight_feature,
    h_sample, h_token,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of ROWS tokens and COLUMNS hidden states of one sample. Neighbours share the tokens."""
    block = tl.program_id(0)
    column_blocks = (choices * rank + COLUMNS - 1) // COLUMNS
    row_blocks = (tokens + ROWS - 1) // ROWS
    sample = (block // (column_blocks * row_blocks)).to(tl.int64)
    t = (block // column_blocks) % row_blocks * ROWS + tl.arange(0, ROWS)
    j = block % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
    here, wanted = t < tokens, j < choices * rank
    slot = tl.load(table + sample * choices + j // rank, mask=wanted, other=0)
    left = x + sample * x_sample + t[:, None] * x_token
    right = weight + (slot * weight_slot + j % rank * weight_rank)[None, :]
    total = tl.full((ROWS, COLUMNS), 0.0, dtype=tl.float32)
    for start in range(0, width, DEPTH):
        n = start + tl.arange(0, DEPTH)
        a = tl.load(left + n[None, :] * x_feature, mask=here[:, None] & (n < width)[None, :], other=0.0)
        b = tl.load(right + n[:, None] * weight_feature, mask=(n < width)[:, None] & wanted[None, :], other=0.0)
        total = _added(a, b, total, PRECISION)
    found = h + sample * h_sample + t[:, None] * h_token + j[None, :]
    tl.store(found, total.to(h.dtype.element_ty), mask=here[:, None] & wanted[None, :])


@triton.autotune(
    _tried((128, 256, 64, 8, 3), (128, 128, 64, 8, 3), (128, 128, 32, 4, 4), (64, 128, 32, 4, 4), (32, 128, 32, 4, 4)),
    key=["width", "rank", "choices", "length_class"],
    restore_value=["out"],
)
@triton.jit(do_not_specialize=["tokens", "length_class"])
def _combine(
    h, weight, table, out,
    tokens, width, rank: tl.constexpr, choices: tl.constexpr, length_class,
    h_sample, h_token, h_rank,
    weight_slot, weight_rank, weight_feature,
    out_sample, out_token, out_feature,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of ROWS tokens and COLUMNS features of one sample."""
    block = tl.program_id(0)
    column_blocks = (width + COLUMNS - 1) // COLUMNS
    row_blocks = (tokens + ROWS - 1) // ROWS
    sample = (block // (column_blocks * row_blocks)).to(tl.int64)
    t = (block // column_blocks) % row_blocks * ROWS + tl.arange(0, ROWS)
    n = block % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
    here, wanted = t < tokens, n < width
    total = tl.full((ROWS, COLUMNS), 0.0, dtype=tl.float32)
    for start in range(0, choices * rank, DEPTH):
        j = start + tl.arange(0, DEPTH)
        there = j < choices * rank
        slot = tl.load(table + sample * choices + j // rank, mask=there, other=0)
        a = tl.load(
            h + sample * h_sample + t[:, None] * h_token + j[None, :] * h_rank,
            mask=here[:, None] & there[None, :],
            other=0.0,
        )
        rows = weight + (slot * weight_slot + j % rank * weight_rank)[:, None]
        b = tl.load(rows + n[None, :] * weight_feature, mask=there[:, None] & wanted[None, :], other=0.0)
        total = _added(a, b, total, PRECISION)
    places = out + sample * out_sample + t[:, None] * out_token + n[None, :] * out_feature
    inside = here[:, None] & wanted[None, :]
    total += tl.load(places, mask=inside, other=0.0).to(tl.float32)
    tl.store(places, total.to(out.dtype.element_ty), mask=inside)


@triton.autotune(
    _tried((128, 128, 64, 8, 3), (64, 128, 64, 4, 4), (128, 64, 64, 4, 4), (64, 64, 64, 4, 4), (16, 128, 64, 4, 4)),
    key=["width", "rank", "choices", "length_class"],
)
@triton.jit(do_not_specialize=["samples", "tokens", "length_class"])
def _outer(
    h, x, table, sums,
    samples, tokens, width, rank: tl.constexpr, choices: tl.constexpr, slots, parts, length_class,
    h_sample, h_token, h_rank,
    x_sample, x_token, x_feature,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of ROWS hidden states and COLUMNS features of one slot, over every `parts`-th sample."""
    block = tl.program_id(0)
    column_blocks = (width + COLUMNS - 1) // COLUMNS
    row_blocks = (rank + ROWS - 1) // ROWS
    j = block % row_blocks * ROWS + tl.arange(0, ROWS)
    n = (block // row_blocks) % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
    place = block // (row_blocks * column_blocks)
    # The universal expert, in the last slot, has the most to do: it starts first.
    slot, part = slots - 1 - place // parts, place % parts
    wanted = n < width
    total = tl.full((ROWS, COLUMNS), 0.0, dtype=tl.float32)
    for index in range(part, samples, parts):
        sample = tl.cast(index, tl.int64)
        right = x + sample * x_sample + n[None, :] * x_feature
        for choice in range(choices):
            if tl.load(table + sample * choices + choice) == slot:
                left = h + sample * h_sample + (choice * rank + j)[:, None] * h_rank
                for start in range(0, tokens, DEPTH):
                    t = start + tl.arange(0, DEPTH)
                    there = t < tokens
                    a = tl.load(left + t[None, :] * h_token, mask=(j < rank)[:, None] & there[None, :], other=0.0)
                    b = tl.load(right + t[:, None] * x_token, mask=there[:, None] & wanted[None, :], other=0.0)
                    total = _added(a, b, total, PRECISION)
    row = (part * slots + slot).to(tl.int64) * rank + j
    tl.store(sums + row[:, None] * width + n[None, :], total, mask=(j < rank)[:, None] & wanted[None, :])


def project(x: Tensor, weight: Tensor, table: Tensor) -> Tensor:
    """See `Segments`."""
    weight = weight.to(x.dtype)
    samples, tokens, width = x.shape
    rank, choices = weight.shape[1], table.shape[1]
    h = x.new_empty(samples, tokens, choices * rank)

    def grid(block: dict[str, int]) -> tuple[int]:
        return (samples * _parts(tokens, block["ROWS"]) * _parts(choices * rank, block["COLUMNS"]),)

    with torch.cuda.device_of(x):
        _project[grid](
            x, weight, table.contiguous(), h,
            tokens, width, rank, choices, _length_class(tokens),
            *x.stride(), *weight.stride(), *h.stride()[:2],
            PRECISION=_precision(),
        )  # fmt: skip
    return h


def combine(h: Tensor, weight: Tensor, table: Tensor, out: Tensor) -> None:
    """See `Segments`."""
    weight = weight.to(h.dtype)
    samples, tokens, width = out.shape
    rank, choices = weight.shape[1], table.shape[1]

    def grid(block: dict[str, int]) -> tuple[int]:
        return (samples * _parts(tokens, block["ROWS"]) * _parts(width, block["COLUMNS"]),)

    with torch.cuda.device_of(h):
        _combine[grid](
            h, weight, table.contiguous(), out,
            tokens, width, rank, choices, _length_class(tokens),
            *h.stride(), *weight.stride(), *out.stride(),
            PRECISION=_precision(),
        )  # fmt: skip


def outer(h: Tensor, x: Tensor, table: Tensor, out: Tensor) -> None:
    """See `Segments`; the sums are float32."""
    samples, tokens, width = x.shape
    slots, choices = len(out), table.shape[1]
    rank = h.shape[2] // choices
    parts = _parts_of_the_sum(samples, rank * width, x.device)
    sums = torch.empty(parts, slots, rank, width, dtype=torch.float32, device=x.device)

    def grid(block: dict[str, int]) -> tuple[int]:
        return (parts * slots * _parts(rank, block["ROWS"]) * _parts(width, block["COLUMNS"]),)

    with torch.cuda.device_of(x):
        _outer[grid](
            h, x, table.contiguous(), sums,
            samples, tokens, width, rank, choices, slots, parts, _length_class(tokens),
            *h.stride(), *x.stride(),
            PRECISION=_precision(),
        )  # fmt: skip
    out.copy_(sums[0] if parts == 1 else sums.sum(dim=0))


def _parts(size: int, block: int) -> int:
    return -(-size // block)


def _parts_of_the_sum(samples: int, results: int, device: torch.device) -> int:
    """Into how many partial sums the samples are divided, so that a slot that all chose keeps the whole GPU busy."""
    if device.type != "cuda":
        return min(samples, 2)
    blocks = _parts(results, 128 * 128)
    wanted = _parts(2 * torch.cuda.get_device_properties(device).multi_processor_count, blocks)
    return max(1, min(samples, wanted, 8))


def _length_class(tokens: int) -> int:
    """Block sizes are tried once for each class of lengths, not for each length."""
    return 0 if tokens <= 16 else 1 if tokens <= 256 else 2


def _precision() -> str:
    """How float32 is multiplied, as torch does it."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


SEGMENTS = Segments("Triton kernels", project, combine, outer)
