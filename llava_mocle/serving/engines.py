"""How each engine is told which adapter a request takes, which is where their OpenAI endpoints differ."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from llava_mocle.errors import ConfigError
from llava_mocle.export.bundle import BASE_NAME


class EngineDialect(ABC):
    """One kind of engine.

    Attributes:
        name: as `--engine` has it.
    """

    name: str

    async def look(self, client: httpx2.AsyncClient, adapters: Sequence[str]) -> None:
        """See that the engine has these adapters.

        Raises:
            ConfigError: it has not; names them.
            httpx2.HTTPError: it does not answer.
        """
        served = {entry["id"] for entry in (await _get(client, "/v1/models"))["data"]}
        self.check([name for name in adapters if name not in served], served)

    def check(self, missing: Sequence[str], served: Any) -> None:
        """Raise where adapters are missing."""
        if missing:
            raise ConfigError(
                f"the engine does not serve {', '.join(missing)}; it serves {', '.join(sorted(map(str, served)))}. "
                "Start it with the command that bundle.json holds."
            )

    @abstractmethod
    def fields(self, adapter: str | None) -> Mapping[str, Any]:
        """The fields of a request that choose an adapter; None: the base alone."""


class Vllm(EngineDialect):
    """An adapter is a model."""

    name = "vllm"

    def fields(self, adapter: str | None) -> Mapping[str, Any]:
        return {"model": adapter or BASE_NAME}


class Sglang(EngineDialect):
    """An adapter is named beside the model (SGLang's documentation, "LoRA Serving"), and not in its list of models."""

    name = "sglang"

    async def look(self, client: httpx2.AsyncClient, adapters: Sequence[str]) -> None:
        await _get(client, "/v1/models")

    def fields(self, adapter: str | None) -> Mapping[str, Any]:
        return {"model": BASE_NAME} | ({} if adapter is None else {"lora_path": adapter})


class LlamaCpp(EngineDialect):
    """Adapters have numbers, in the order of the command line, and those that a request does not name have scale 0
    (llama.cpp, tools/server/README.md, field `lora`).

    Unless it is told not to, it leaves out unlikely tokens, and takes the beginning of a prompt from an earlier request
    that had another adapter (https://github.com/ggml-org/llama.cpp/issues/26207).
    """

    name = "llamacpp"

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    async def look(self, client: httpx2.AsyncClient, adapters: Sequence[str]) -> None:
        loaded = await _get(client, "/lora-adapters")
        paths = {str(entry["path"]): int(entry["id"]) for entry in loaded}
        self._numbers = {
            name: number
            for name in adapters
            for path, number in paths.items()
            if name in path.replace("\\", "/").removesuffix(".gguf").split("/")
        }
        self.check([name for name in adapters if name not in self._numbers], paths)

    def fields(self, adapter: str | None) -> Mapping[str, Any]:
        chosen = {name: float(name == adapter) for name in self._numbers}
        return {
            "model": BASE_NAME,
            "lora": [{"id": self._numbers[name], "scale": scale} for name, scale in chosen.items()],
            "top_k": 0,
            "min_p": 0.0,
            "cache_prompt": False,
        }


DIALECTS: Mapping[str, type[EngineDialect]] = {kind.name: kind for kind in (Vllm, Sglang, LlamaCpp)}


async def _get(client: httpx2.AsyncClient, path: str) -> Any:
    response = await client.get(path)
    response.raise_for_status()
    return response.json()
