import importlib.util
import logging
import sys
import time

import pytest
import torch

from llava_mocle.adapter.kernels import batched, choice, grouped_mm
from tests.adapter.kernels.loops import LOOPS

SIZES = (16, 24, 8, 3, 2)
TABLE = torch.tensor([[0, 2], [1, 2], [0, 2]])


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="llava_mocle")
    return caplog


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    monkeypatch.setattr(choice, "_chosen", {})


def inputs(tokens=5, dtype=torch.float32):
    in_features, out_features, rank, slots, _ = SIZES
    return (
        torch.zeros(3, tokens, in_features, dtype=dtype),
        torch.zeros(slots, rank, in_features, dtype=dtype),
        torch.zeros(slots, out_features, rank, dtype=dtype),
        TABLE,
    )


def slow(way, seconds, name):
    def project(*args):
        time.sleep(seconds)
        return way.project(*args)

    return way._replace(name=name, project=project)


def test_the_fastest_is_taken_and_said(log):
    ways = [slow(batched.SEGMENTS, 0.03, "slow"), slow(LOOPS, 0.0, "quick"), slow(LOOPS, 0.06, "slowest")]
    assert choice.fastest(ways, inputs()[0], SIZES, TABLE) is ways[1]
    assert "quick for cpu (float32), measured on B 3 x T 5, 16 -> 24, r 8: slow " in log.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_ways_agree(log, dtype):
    choice.fastest([LOOPS, batched.SEGMENTS, grouped_mm.SEGMENTS], inputs(dtype=dtype)[0], SIZES, TABLE)
    assert "not used" not in log.text
    assert all(way.name in log.text for way in (LOOPS, batched.SEGMENTS, grouped_mm.SEGMENTS))


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_way_with_other_results_is_left_out(log, value):
    def outer(h, x, table, out):
        batched.outer(h, x, table, out)
        out.mul_(value)

    wrong = batched.SEGMENTS._replace(name="wrong", outer=outer)
    slower = slow(batched.SEGMENTS, 0.01, "right")
    assert choice.fastest([slower, wrong], inputs()[0], SIZES, TABLE) is slower
    assert "wrong is not used, as its results differ" in log.text


def test_a_way_that_fails_is_left_out(log):
    def project(*args):
        raise RuntimeError("no compiler")

    broken = batched.SEGMENTS._replace(name="broken", project=project)
    assert choice.fastest([LOOPS, broken], inputs()[0], SIZES, TABLE) is LOOPS
    assert "broken cannot run here and is not used: no compiler" in log.text


def test_measuring_leaves_random_numbers_alone():
    before = torch.get_rng_state()
    choice.fastest([LOOPS, batched.SEGMENTS], inputs()[0], SIZES, TABLE)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_measurement_for_sizes_of_one_class(monkeypatch):
    asked = []

    def fastest(ways, x, sizes, table):
        asked.append(tuple(x.shape))
        return ways[0]

    monkeypatch.setattr(choice, "fastest", fastest)
    for tokens in (5, 8, 7, 9, 16, 5):
        choice.segments_for(*inputs(tokens))
    choice.segments_for(*inputs(5, torch.bfloat16))
    assert asked == [(3, 5, 16), (3, 9, 16), (3, 5, 16)]


def test_nothing_is_measured_where_runs_must_repeat():
    torch.use_deterministic_algorithms(True)
    try:
        assert choice.segments_for(*inputs()) is batched.SEGMENTS
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_is_not_available_has_a_reason(log, monkeypatch):
    monkeypatch.setitem(sys.modules, "llava_mocle.adapter.kernels.triton_kernels", None)
    assert choice.available(torch.device("cpu"), torch.bfloat16, (8, 16, 20)) == []
    assert "no grouped GEMM, as rows of 20 numbers of bfloat16" in log.text
    assert "no Triton kernels, as triton cannot be imported" in log.text
    assert choice.available(torch.device("cpu"), torch.bfloat16, (8, 16, 24)) == [grouped_mm.SEGMENTS]


def test_triton_is_imported_only_when_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("choice", "batched", "grouped_mm", "products"):
        spec = importlib.util.find_spec(f"llava_mocle.adapter.kernels.{name}")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_another_way_is_that_of_the_batch_at_hand(monkeypatch):
    monkeypatch.setattr(batched, "SEGMENTS", slow(batched.SEGMENTS, 0.05, batched.SEGMENTS.name))
    monkeypatch.setattr(choice, "available", lambda *_: [])
    # Ways that are made for one batch: the same name each time.
    first, second = (slow(LOOPS, 0.0, "loops") for _ in range(2))
    assert choice.segments_for(*inputs(), others=[first]) is first
    assert choice.segments_for(*inputs(), others=[second]) is second
    assert choice.chosen() == {"loops"}
