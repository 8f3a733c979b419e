import importlib.util
import logging

import pytest
import torch

from llava_mocle.errors import ConfigError
from llava_mocle.model.placement import choose_attention, choose_placement, parse_dtype


def pretend(monkeypatch, *, flash_attn, gpu):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "llava_mocle.model.placement.importlib.util.find_spec",
        lambda name: (object() if flash_attn else None) if name == "flash_attn" else find_spec(name),
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)


@pytest.mark.parametrize(
    ("flash_attn", "gpu", "device", "dtype", "expected"),
    [
        (True, True, None, torch.bfloat16, "flash_attention_2"),
        (True, True, torch.device("cuda:0"), torch.float16, "flash_attention_2"),
        (True, True, torch.device("cpu"), torch.bfloat16, "sdpa"),
        (True, True, None, torch.float32, "sdpa"),
        (True, False, None, torch.bfloat16, "sdpa"),
        (False, True, None, torch.bfloat16, "sdpa"),
    ],
)
def test_auto_takes_flash_attention_only_where_it_runs(monkeypatch, caplog, flash_attn, gpu, device, dtype, expected):
    pretend(monkeypatch, flash_attn=flash_attn, gpu=gpu)
    with caplog.at_level(logging.INFO):
        assert choose_attention("auto", device, dtype) == expected
    assert expected in caplog.text


def test_asking_for_flash_attention_in_vain_says_why(monkeypatch):
    pretend(monkeypatch, flash_attn=False, gpu=False)
    with pytest.raises(ConfigError, match=r"not installed.*not on a GPU.*not 16 bit"):
        choose_attention("flash_attention_2", None, torch.float32)
    assert choose_attention("eager", None, torch.float32) == "eager"


def test_dtype_names():
    assert parse_dtype("bf16") is parse_dtype("bfloat16") is parse_dtype(torch.bfloat16) is torch.bfloat16
    assert parse_dtype("auto") == "auto"
    with pytest.raises(ConfigError, match="float8"):
        parse_dtype("float8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_machine_without_a_gpu():
    assert choose_placement(None, None) == (torch.device("cpu"), torch.float32)
    assert choose_placement("cpu", "bfloat16") == (torch.device("cpu"), "bfloat16")
    with pytest.raises(ConfigError, match="device 'cuda:9' cannot be used"):
        choose_placement("cuda:9", None)


def test_a_device_that_torch_does_not_know():
    with pytest.raises(ConfigError, match="device 'gpu' cannot be used"):
        choose_placement("gpu", None)
