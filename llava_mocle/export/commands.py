"""The command line that starts each engine on a bundle, to be run in the bundle's folder."""

import shlex
from collections.abc import Mapping, Sequence

from llava_mocle.errors import ConfigError
from llava_mocle.export.bundle import ADAPTERS_FOLDER, BASE_FOLDER, BASE_NAME, MERGED_FOLDER

GGUF_BASE = f"{BASE_FOLDER}/model.gguf"
# What vLLM has room for, of `--max-lora-rank`.
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Adapters in one batch, where there are more: each takes GPU memory.
_AT_ONCE = 8
# The router listens at port 8000, and asks clients for a key; the engine behind it is for this machine alone.
_HOST, _PORT = "127.0.0.1", 8001
_VLLM = ("python", "-m", "vllm.entrypoints.openai.api_server")


def _listening(port: int = _PORT) -> tuple[str, ...]:
    return "--host", _HOST, "--port", str(port)


def vllm_rank(rank: int) -> int:
    """The smallest `--max-lora-rank` of vLLM that has room for adapters of this rank.

    Raises:
        ConfigError: none has.
    """
    for room in _VLLM_RANKS:
        if rank <= room:
            return room
    raise ConfigError(
        f"the adapters have rank {rank}, and vLLM has room for {_VLLM_RANKS[-1]} at most: make them smaller with "
        f"--rank {_VLLM_RANKS[-1]}, or merge them with --format merged"
    )


def vllm(ranks: Mapping[str, int], targets: Sequence[str], dtype: str) -> str:
    """vLLM's server.

    Args:
        ranks: adapter -> rank.
        targets: last parts of the names of the adapted modules. Without them, vLLM would wrap the attention too.
        dtype: of the weights.
    """
    at_once = min(len(ranks), _AT_ONCE)
    return shlex.join(
        [
            *(*_VLLM, "--model", BASE_FOLDER, "--served-model-name", BASE_NAME, "--dtype", dtype, *_listening()),
            "--enable-lora",
            *("--max-loras", str(at_once), "--max-cpu-loras", str(len(ranks))),
            *("--max-lora-rank", str(vllm_rank(max(ranks.values())))),
            *("--lora-target-modules", *targets),
            *("--lora-modules", *(f"{name}={ADAPTERS_FOLDER}/{name}" for name in ranks)),
        ]
    )


def sglang(ranks: Mapping[str, int], targets: Sequence[str], dtype: str) -> str:
    """SGLang's server; arguments as for `vllm`."""
    return shlex.join(
        [
            *("python", "-m", "sglang.launch_server", "--model-path", BASE_FOLDER, "--served-model-name", BASE_NAME),
            *_listening(),
            *("--dtype", dtype, "--chat-template", f"{BASE_FOLDER}/chat_template.jinja", "--enable-lora"),
            *("--max-loras-per-batch", str(min(len(ranks) + 1, _AT_ONCE)), "--max-lora-rank", str(max(ranks.values()))),
            *("--lora-target-modules", *targets),
            *("--lora-paths", *(f"{name}={ADAPTERS_FOLDER}/{name}" for name in ranks)),
        ]
    )


def llamacpp(ranks: Mapping[str, int]) -> str:
    """llama.cpp's server. A request names its adapter by its place in this list."""
    files = ",".join(f"{ADAPTERS_FOLDER}/{name}.gguf" for name in ranks)
    return shlex.join(
        [
            *("llama-server", "--model", GGUF_BASE, *_listening()),
            *("--jinja", "--lora", files, "--lora-init-without-apply"),
        ]
    )


def merged(names: Sequence[str], dtype: str) -> str:
    """A server of vLLM for each whole model, one a line, each on a port of its own."""
    return "\n".join(
        shlex.join(
            [
                *(*_VLLM, "--model", f"{MERGED_FOLDER}/{name}", "--served-model-name", name, "--dtype", dtype),
                *_listening(_PORT + index),
            ]
        )
        for index, name in enumerate(names)
    )


def of_format(format: str, ranks: Mapping[str, int], targets: Sequence[str], dtype: str, names: Sequence[str]) -> str:
    """The command line for a bundle of this format.

    Args:
        ranks, targets, dtype: as for `vllm`.
        names: of the merged models.
    """
    if format == "merged":
        return merged(names, dtype)
    if format == "gguf":
        return llamacpp(ranks)
    return (vllm if format == "vllm" else sglang)(ranks, targets, dtype)
