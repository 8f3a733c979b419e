"""The engines' command lines."""

import argparse
import shlex
from pathlib import Path

import pytest

from llava_mocle.cli import serve
from llava_mocle.errors import ConfigError
from llava_mocle.export import commands

RANKS = {"cluster_0": 24, "universal": 12}
ROOT = Path(__file__).parents[2]


def build_parser_of_serve() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser


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


@pytest.mark.parametrize("format", ["vllm", "sglang", "gguf", "merged"])
def test_it_listens_where_docs_send_the_router(format: str) -> None:
    """Not at port 8000, which is the router's, and for this machine alone, as the engine asks for no key."""
    words = shlex.split(commands.of_format(format, RANKS, ["up_proj"], "float16", ["cluster_0"]))
    host, port = (words[words.index(flag) + 1] for flag in ("--host", "--port"))
    router = build_parser_of_serve().parse_args(["--bundle", "b", "--upstream", f"http://{host}:{port}"])
    assert (host, port) == ("127.0.0.1", "8001")
    assert router.port != int(port)
    assert f"--upstream http://{host}:{port}" in (ROOT / "docs/serving.md").read_text()


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
    assert ports == ["8001", "8002"]
    assert "merged/cluster_3" in lines[1]
