"""The engines' command lines."""

import shlex

import pytest

from llava_mocle.errors import ConfigError
from llava_mocle.export import commands

RANKS = {"cluster_0": 24, "universal": 12}


def test_vllm() -> None:
    words = shlex.split(commands.of_format("vllm", RANKS, ["down_proj", "up_proj"], "bfloat16", []))
    assert words[:5] == ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", "base"]
    assert words[words.index("--max-lora-rank") + 1] == "32"
    assert words[words.index("--max-loras") + 1] == "2"
    assert words[words.index("--lora-target-modules") + 1 :][:2] == ["down_proj", "up_proj"]
    assert words[-2:] == ["cluster_0=adapters/cluster_0", "universal=adapters/universal"]


@pytest.mark.parametrize(("rank", "room"), [(1, 1), (2, 8), (8, 8), (33, 64), (256, 256), (300, 320), (512, 512)])
def test_room_for_a_rank(rank: int, room: int) -> None:
    assert commands.vllm_rank(rank) == room


def test_no_room() -> None:
    with pytest.raises(ConfigError, match=r"rank 513.*512 at most.*--rank 512"):
        commands.vllm_rank(513)


def test_sglang_and_llamacpp() -> None:
    words = shlex.split(commands.of_format("sglang", RANKS, ["gate_proj", "up_proj"], "float16", []))
    assert words[words.index("--max-lora-rank") + 1] == "24"
    assert "cluster_0=adapters/cluster_0" in words
    words = shlex.split(commands.of_format("gguf", RANKS, [], "float16", []))
    assert words[words.index("--lora") + 1] == "adapters/cluster_0.gguf,adapters/universal.gguf"


def test_merged_has_a_line_a_model() -> None:
    lines = commands.of_format("merged", {}, [], "float32", ["cluster_0", "cluster_3"]).splitlines()
    ports = [shlex.split(line)[-1] for line in lines]
    assert ports == ["8000", "8001"]
    assert "merged/cluster_3" in lines[1]
