"""The benchmark for GPUs runs at toy size on the CPU, and what it counts is right."""

import sys
import warnings

import pytest
import torch
from torch import nn

from benchmarks import gpu

CPU = torch.device("cpu")


@pytest.mark.slow
def test_toy_on_the_cpu(monkeypatch, capsys):
    # A data sheet, so that all tables are printed.
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--toy", "--gpu", "h200"])
    gpu.main()
    printed = capsys.readouterr().out
    assert printed.startswith(gpu.NO_MEASUREMENT)
    assert printed.rstrip().endswith(gpu.NO_MEASUREMENT)
    for line in ("up_proj, 64 -> 176", "down_proj, 176 -> 64", "| batched GEMM |", "| grouped GEMM |", "MFU: "):
        assert line in printed
    for name in ("PEFT 2r", "PEFT r", "MoCLE", "MoCLE, plain path"):
        assert printed.count(f"| {name} |") == 3  # both linears and the step
    planned = next(line for line in printed.splitlines() if line.startswith("| weights and optimizer |"))
    assert float(planned.split("|")[4]) == pytest.approx(1, abs=0.02)


def test_a_7b_shape_is_refused_on_a_cpu(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "--toy" in capsys.readouterr().err


def test_all_ways_share_the_frozen_weights():
    linear = nn.Linear(16, 24, bias=False)
    wrapped = gpu._wrapped(gpu._Called(nn.ModuleDict({"up_proj": linear}), "up_proj"), 8, ["up_proj"])
    assert len(wrapped) == 4
    for model in wrapped.values():
        frozen = [p for p in model.parameters() if not p.requires_grad]
        assert [p.data_ptr() for p in frozen] == [linear.weight.data_ptr()]


def test_synchronizations_are_counted(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def run():
        for text in (
            "called a synchronizing CUDA operation",
            "something else",
            "called a synchronizing CUDA operation",
        ):
            warnings.warn(text, stacklevel=1)

    assert gpu.count_syncs(run) == 2
    assert modes == ["warn", "default"]


def test_operations_are_counted_on_a_cpu():
    x = torch.ones(3, 3)
    assert gpu.count_launches(lambda: x.add(x).mul(x), CPU) == 2


def test_the_data_sheet_is_found_by_the_device(monkeypatch):
    class Properties:
        total_memory = 79 * 2**30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    for name, expected in {
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA A100-SXM4-80GB": "a100-80",
        "NVIDIA GeForce RTX 4090": "rtx4090",
    }.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert gpu._gpu(None, torch.device("cuda")).name == expected
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Something")
    assert gpu._gpu(None, torch.device("cuda")) is None
    assert gpu._gpu("h200", CPU).name == "h200"
