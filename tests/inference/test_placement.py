"""Where a model runs by default, and what is said of a device that is not there."""

import pytest
import torch

from llava_mocle.errors import ConfigError
from llava_mocle.inference.placement import choose_placement


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_machine_without_a_gpu() -> None:
    assert choose_placement(None, None) == (torch.device("cpu"), torch.float32)
    assert choose_placement("cpu", "bfloat16") == (torch.device("cpu"), "bfloat16")
    with pytest.raises(ConfigError, match="device 'cuda:9' cannot be used"):
        choose_placement("cuda:9", None)


def test_a_device_that_torch_does_not_know() -> None:
    with pytest.raises(ConfigError, match="device 'gpu' cannot be used"):
        choose_placement("gpu", None)
