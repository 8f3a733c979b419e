"""The router: finds the cluster of a request, and has an engine answer it with that cluster's adapter."""

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from llava_mocle.data.conversation import HUMAN, IMAGE_TOKEN
from llava_mocle.errors import ConfigError
from llava_mocle.export.bundle import Bundle
from llava_mocle.inference.prompt_router import PromptRouter
from llava_mocle.io.secrets import mask_urls
from llava_mocle.io.text import one_line
from llava_mocle.serving.answer import Stripped
from llava_mocle.serving.backend import Backend, Event, Finished, Job, Piece, Route, Usage
from llava_mocle.serving.engine_images import engine_uri
from llava_mocle.serving.engines import DIALECTS
from llava_mocle.serving.probe import probe
from llava_mocle.serving.question import Decoding, Question
from llava_mocle.serving.refusal import Refusal, full
from llava_mocle.serving.views import bundle_views

logger = logging.getLogger(__name__)

# Requests that the engine may have at once; how many there are is the front's to say. All three engines close a
# connection that is idle for 5 s; one that is used up to that moment can meet its end with a request.
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=3.0)

# Shorter than what balancers wait for an answer to such a question.
_HEALTH_SECONDS = 1.0


class Upstream(Backend):
    """An engine behind the router.

    Args:
        bundle: what the engine serves.
        url: of the engine, with or without `/v1` at its end.
        engine: "vllm", "sglang" or "llamacpp".
        ood: "universal": the universal expert alone answers beyond the bundle's distance; "nearest": it never does.
        key: the engine's bearer key.
        encoder: folder of the sentence encoder, in place of the bundle's.
        seconds: that the engine may be silent.
        transport: of HTTP; for an engine in the same process.

    Raises:
        ConfigError: there is no such engine, the URL is none, or `ood` needs an adapter that the bundle lacks.
        CheckpointError, ClusterModelError: the bundle's cluster model cannot be read.
    """

    def __init__(
        self,
        bundle: Bundle,
        url: str,
        *,
        engine: str | None = None,
        ood: str = "nearest",
        key: str | None = None,
        encoder: str | None = None,
        seconds: float = 300.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        routing = bundle.routing
        engine = engine or bundle.manifest.engine
        if engine not in DIALECTS:
            raise ConfigError(f"engine is {engine!r}, expected one of {', '.join(DIALECTS)}")
        if not _is_address(url):
            raise ConfigError(f"--upstream is {mask_urls(url)}; expected an address such as http://127.0.0.1:8001")
        if ood == "universal" and routing.ood is None:
            raise ConfigError(
                f"{bundle.folder}: has no universal adapter or no distance beyond which it answers, so --ood universal "
                "cannot be done; leave it out"
            )
        self.model_id = bundle.manifest.model_id
        self.clusters = bundle_views(routing)
        self.sees_images = bundle.manifest.sees_images
        self.far_distance = routing.ood.distance if routing.ood is not None and ood == "universal" else None
        self._bundle = bundle
        self._url = url.rstrip("/").removesuffix("/v1")
        self._dialect = DIALECTS[engine]()
        model = bundle.cluster_model(encoder) if routing.router == "cluster" else None
        self._router = PromptRouter(model, bundle.folder)
        # A sentence encoder is not for two threads.
        self._routing = ThreadPoolExecutor(1, thread_name_prefix="routing")
        self._images = ThreadPoolExecutor(2, thread_name_prefix="images")
        self._client = httpx2.AsyncClient(
            base_url=self._url,
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(seconds, connect=10.0),
            limits=_LIMITS,
            transport=transport,
        )

    async def start(self) -> None:
        """See that the engine serves the bundle, and that each adapter changes something.

        Raises:
            ConfigError: it does not.
        """
        names = self._bundle.adapter_names
        try:
            await self._dialect.look(self._client, names)
            if self._bundle.manifest.ranks:  # whole models have no base to compare with
                await probe(self._client, self._dialect, self._bundle.routing, names)
        except (httpx2.HTTPError, KeyError, ValueError, TypeError) as error:
            raise ConfigError(
                f"{mask_urls(self._url)}: no {self._dialect.name} that serves this bundle "
                f"({type(error).__name__}: {one_line(error)}). Start it in {self._bundle.folder} with: "
                f"{self._bundle.manifest.command}"
            ) from error

    async def close(self) -> None:
        await self._client.aclose()
        for threads in (self._routing, self._images):
            threads.shutdown(wait=False, cancel_futures=True)

    async def alive(self) -> bool:
        try:
            return (await self._client.get("/health", timeout=_HEALTH_SECONDS)).status_code == 200
        except httpx2.HTTPError:
            return False

    async def route(self, question: Question) -> Job:
        loop = asyncio.get_running_loop()
        routed = loop.run_in_executor(self._routing, self._route, question)
        facts = self._bundle.routing.image
        uris = await asyncio.gather(
            *(loop.run_in_executor(self._images, engine_uri, picture, facts) for picture in question.pictures)
        )
        adapter, route = await routed
        return Job(question, route, self._payload(question, adapter, uris))

    def _route(self, question: Question) -> tuple[str, Route]:
        """In the thread that routes: the adapter's name, and what is told of it."""
        routing = self._bundle.routing
        if routing.router == "dataset":
            entry = next((e for e in routing.clusters if question.dataset in (e.name, e.cluster)), None)
            if entry is None:
                known = ", ".join(str(e.name) for e in routing.clusters)
                raise Refusal(400, f"dataset is {question.dataset!r}; expected one of {known}", param="dataset")
            return entry.adapter, Route(universal_weight=entry.universal_weight)
        (cluster,), (distance,) = self._router.route([question.request(with_pictures=False)])
        if routing.ood is not None and self.far_distance is not None and (distance or 0.0) > self.far_distance:
            return routing.ood.adapter, Route(cluster, distance, 0.0, 1.0, out_of_distribution=True)
        entry = None if cluster is None else routing.entry(cluster)
        view = self.view(cluster)
        if entry is None or view is None:
            raise Refusal(
                503, f"cluster {cluster} was left out of the bundle that this server has", code="cluster_not_served"
            )
        return entry.adapter, Route(cluster, distance, view.gate, view.universal_weight)

    def _payload(self, question: Question, adapter: str, uris: list[str]) -> dict[str, Any]:
        """The engine's request."""
        messages: list[dict[str, Any]] = []
        if question.system is not None:
            messages.append({"role": "system", "content": question.system})
        rest = iter(uris)
        for turn in question.turns:
            shown = turn.text.count(IMAGE_TOKEN)
            text = turn.text.removeprefix(f"{IMAGE_TOKEN}\n" * shown)
            # As `place_images` has it: images in front, and the text behind them stripped.
            parts = [{"type": "image_url", "image_url": {"url": next(rest)}} for _ in range(shown)]
            content = [*parts, {"type": "text", "text": text.strip()}] if shown else text
            messages.append({"role": "user" if turn.role == HUMAN else "assistant", "content": content})
        return {
            **self._dialect.fields(adapter),
            "messages": messages,
            **_decoding_fields(question.decoding),
            **({"stream": True, "stream_options": {"include_usage": True}} if question.stream else {}),
        }

    async def generate(self, job: Job) -> AsyncGenerator[Event, None]:
        answer = self._streamed(job.payload) if job.question.stream else self._whole(job.payload)
        try:
            async for event in answer:
                yield event
        except httpx2.TimeoutException as error:
            raise Refusal(504, "the engine took too long", code="timeout") from error
        except (httpx2.HTTPError, KeyError, ValueError, TypeError) as error:
            logger.warning("the engine failed to answer (%s: %s)", type(error).__name__, one_line(error))
            raise Refusal(502, "the engine behind this server failed to answer", code="engine_failed") from error
        finally:
            await answer.aclose()

    async def _whole(self, payload: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        response = await self._client.post("/v1/chat/completions", json=payload)
        _check(response.status_code, response.content)
        found = response.json()
        for choice in found["choices"]:
            logprobs = (choice.get("logprobs") or {}).get("content") or ()
            yield Piece(choice["index"], (choice["message"].get("content") or "").strip(), tuple(logprobs))
            yield Finished(choice["index"], choice["finish_reason"])
        yield _usage(found)

    async def _streamed(self, payload: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        usage, texts = Usage(0, 0), defaultdict[int, Stripped](Stripped)
        async with self._client.stream("POST", "/v1/chat/completions", json=payload) as response:
            if response.status_code != 200:
                _check(response.status_code, await response.aread())
            async for found in _events(response.aiter_lines()):
                if found.get("usage"):
                    usage = _usage(found)
                for choice in found["choices"]:
                    text = texts[choice["index"]].add(choice["delta"].get("content") or "")
                    logprobs = (choice.get("logprobs") or {}).get("content") or ()
                    if text or logprobs:
                        yield Piece(choice["index"], text, tuple(logprobs))
                    if choice.get("finish_reason"):
                        yield Finished(choice["index"], choice["finish_reason"])
        yield usage


def _is_address(url: str) -> bool:
    try:
        found = httpx2.URL(url)
    except httpx2.InvalidURL:
        return False
    return found.scheme in ("http", "https") and bool(found.host)


async def _events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """The objects of server-sent events."""
    async for line in lines:
        if line.startswith("data:"):
            data = line[5:].strip()
            if data == "[DONE]":
                return
            yield json.loads(data)


def _decoding_fields(decoding: Decoding) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "max_tokens": decoding.max_tokens,
        "n": decoding.n,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
    }
    if decoding.stop:
        fields["stop"] = list(decoding.stop)
    if decoding.seed is not None:
        fields["seed"] = decoding.seed
    if decoding.logprobs is not None:
        fields |= {"logprobs": True, "top_logprobs": decoding.logprobs}
    return fields


def _usage(found: Mapping[str, Any]) -> Usage:
    usage = found.get("usage") or {}
    return Usage(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))


def _check(status: int, content: bytes) -> None:
    """Raise for what an engine refuses: of 4xx the client learns the reason, of the others that it failed."""
    if status == 200:
        return
    if status in (429, 503):
        raise full()
    if status in (400, 413, 422):
        raise Refusal(400, f"the engine refuses this: {_reason(content)}", code="engine_refuses")
    logger.warning("the engine answers with status %d (%s)", status, _reason(content))
    raise Refusal(502, "the engine behind this server failed to answer", code="engine_failed")


def _reason(content: bytes) -> str:
    try:
        found = json.loads(content)
        message = found.get("message") or found["error"]["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "no reason given"
    return one_line(message)
