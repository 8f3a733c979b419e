"""The HTTP front: OpenAI's endpoints, health, metrics and the page, over one backend."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from llava_mocle.errors import UserError
from llava_mocle.serving import page
from llava_mocle.serving.backend import Backend, Event, Finished, Job, Piece, Usage
from llava_mocle.serving.chat_request import ChatRequest, model_names, parse, question_of
from llava_mocle.serving.guards import Room, check_key, read_body, unless_gone
from llava_mocle.serving.metrics import Metrics
from llava_mocle.serving.question import Limits
from llava_mocle.serving.refusal import Refusal, refusal_of
from llava_mocle.serving.responses import chunks, completion, headers_of, lines

logger = logging.getLogger(__name__)

# What a proxy in front may note of a client that went away before its answer came; the client itself reads nothing.
_CLIENT_GONE = 499
# Seconds beyond `answer_seconds` that a client may take to read the end of its stream.
_LAST_WORDS = 5.0


@dataclass(frozen=True)
class Settings:
    """How a server treats its clients.

    Attributes:
        key: what they must send as a bearer key; None: nothing.
        origins: of pages of other servers that may ask this one, such as "https://example.org".
        limits: of one request.
        most_requests: that are being answered or wait; one more is sent away.
        body_seconds: that a request may take to arrive.
        answer_seconds: that its answers may take.
        with_page: whether `/` has the page.
    """

    key: str | None = field(default=None, repr=False)
    origins: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)
    most_requests: int = 64
    body_seconds: float = 30.0
    answer_seconds: float = 300.0
    with_page: bool = True


def create_app(backend: Backend, settings: Settings, metrics: Metrics) -> FastAPI:
    """The application over a backend that whoever runs it starts and closes."""
    app = FastAPI(title="llava_mocle", docs_url=None, redoc_url=None, openapi_url=None)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client for browsers sends some of its own
            expose_headers=["x-mocle-cluster-id", "x-mocle-distance", "x-mocle-universal-weight", "Retry-After"],
        )
    metrics.watch_queue(backend)
    front = _Front(backend, settings, metrics)
    app.add_api_route("/v1/chat/completions", front.chat, methods=["POST"])
    app.add_api_route("/v1/models", front.models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", front.model, methods=["GET"])
    app.add_api_route("/mocle/clusters", front.clusters, methods=["GET"])
    app.add_api_route("/health", front.health, methods=["GET"])
    app.add_api_route("/metrics", front.metrics_text, methods=["GET"])
    if settings.with_page:
        app.add_api_route("/", front.page, methods=["GET"])
    app.add_exception_handler(Refusal, _refuse)
    app.add_exception_handler(ClientDisconnect, _refuse)
    app.add_exception_handler(UserError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(404, _refuse_http)
    app.add_exception_handler(405, _refuse_http)
    app.add_exception_handler(Exception, _refuse)
    return app


class _Front:
    """The endpoints."""

    def __init__(self, backend: Backend, settings: Settings, metrics: Metrics) -> None:
        self.backend = backend
        self.settings = settings
        self.metrics = metrics
        self.room = Room(settings.most_requests)
        metrics.active.set_function(lambda: self.room.taken)
        self.cluster_ids = [view.cluster_id for view in backend.clusters]
        self._created = int(time.time())

    async def chat(self, request: Request) -> Response:
        """`/v1/chat/completions`."""
        with ExitStack() as held:
            count = held.enter_context(_Count(self.metrics))
            check_key(request, self.settings.key)
            held.enter_context(self.room.place())
            try:
                return await self._answer(request, count, held)
            except (Refusal, UserError, ClientDisconnect):
                raise
            except Exception as error:
                # An error that reaches the HTTP server makes it close the connection behind the response, while the
                # client may be sending its next request there.
                if not isinstance(error, TimeoutError):
                    logger.error("%s failed", request.url.path, exc_info=error)
                raise refusal_of(error) from error

    async def _answer(self, request: Request, count: "_Count", held: ExitStack) -> Response:
        """The response; a stream takes over what is held until it has been sent."""
        body = await read_body(request, self.settings.limits.body, self.settings.body_seconds)
        async with asyncio.timeout(self.settings.answer_seconds) as deadline:
            parsed, job = await unless_gone(request, asyncio.ensure_future(self._job(body)))
            count.job = job
            until = deadline.when()
            assert until is not None
            events = count.watch(_in_time(self.backend.generate(job), until))
            if not parsed.stream:
                whole = asyncio.ensure_future(completion(parsed.model, job, events))
                return JSONResponse(await unless_gone(request, whole), headers=headers_of(job.route))
            # What is wrong with the engine shows before its first event, while there is still a status to send.
            first = await unless_gone(request, asyncio.ensure_future(anext(events)))
        stream = lines(chunks(parsed.model, job, _after(first, events), parsed.include_usage))
        return _Stream(stream, headers_of(job.route), events, held.pop_all(), until + _LAST_WORDS)

    async def _job(self, body: bytes) -> tuple[ChatRequest, Job]:
        parsed, question = await asyncio.to_thread(self._question, body)
        if question.pictures and not self.backend.sees_images:
            raise Refusal(400, "the engine behind this server has text alone; leave the images out", code="no_images")
        return parsed, await self.backend.route(question)

    def _question(self, body: bytes) -> tuple[ChatRequest, Any]:
        parsed = parse(body)
        return parsed, question_of(parsed, self.settings.limits, self.cluster_ids)

    async def models(self, request: Request) -> dict[str, Any]:
        """`/v1/models`."""
        check_key(request, self.settings.key)
        return {"object": "list", "data": [self._model(name) for name in model_names(self.cluster_ids)]}

    async def model(self, request: Request, name: str) -> dict[str, Any]:
        """`/v1/models/NAME`."""
        check_key(request, self.settings.key)
        if name not in model_names(self.cluster_ids):
            raise Refusal(404, "there is no such model; GET /v1/models lists them", code="model_not_found")
        return self._model(name)

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "llava_mocle"}

    async def clusters(self, request: Request) -> dict[str, Any]:
        """`/mocle/clusters`: what the page shows of them."""
        check_key(request, self.settings.key)
        return {
            "model_id": self.backend.model_id,
            "sees_images": self.backend.sees_images,
            "far_distance": self.backend.far_distance,
            "max_tokens": self.settings.limits.tokens,
            "clusters": [asdict(view) for view in self.backend.clusters],
        }

    async def health(self) -> Response:
        """`/health`: whether requests can be answered at all. Everyone may ask."""
        if await self.backend.alive():
            return JSONResponse({"status": "ok", "model": self.backend.model_id})
        return JSONResponse({"status": "the engine does not answer"}, status_code=503)

    async def metrics_text(self, request: Request) -> Response:
        """`/metrics`."""
        check_key(request, self.settings.key)
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def page(self) -> Response:
        """`/`. It holds nothing of the model, so everyone may see it; it asks for the key."""
        return HTMLResponse(page.html(), headers=page.headers())


class _Stream(StreamingResponse):
    """Server-sent events; whatever happens to the client, the events are closed and what is held is let go."""

    def __init__(
        self,
        stream: AsyncIterator[str],
        headers: dict[str, str],
        events: AsyncGenerator[Event, None],
        held: ExitStack,
        until: float,
    ) -> None:
        # A proxy that collects text before it passes it on would undo the stream.
        headers = headers | {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(stream, media_type="text/event-stream", headers=headers)
        self._events = events
        self._held = held
        self._until = until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            try:
                async with asyncio.timeout_at(self._until):
                    await super().__call__(scope, receive, send)
            except TimeoutError:
                logger.warning("a client stays connected and does not read its answer; its connection is closed")
            finally:
                await self._events.aclose()


class _Count:
    """Counts one request when it is over."""

    def __init__(self, metrics: Metrics) -> None:
        self.job: Job | None = None
        self._metrics = metrics
        self._begin = time.monotonic()
        self._status = _CLIENT_GONE

    @property
    def _label(self) -> str:
        return "none" if self.job is None else self.job.route.label

    async def watch(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event]:
        """The same events, counted."""
        first = True
        try:
            async for event in events:
                if isinstance(event, Piece) and first and event.text:
                    self._metrics.first.labels(self._label).observe(time.monotonic() - self._begin)
                    first = False
                elif isinstance(event, Finished) and event.near_tie:
                    self._metrics.near_ties.inc()
                elif isinstance(event, Usage):
                    self._metrics.tokens.labels(self._label, "prompt").inc(event.prompt_tokens)
                    self._metrics.tokens.labels(self._label, "answer").inc(event.completion_tokens)
                    self._status = 200
                yield event
        except Exception as error:
            self._status = refusal_of(error).status
            raise
        finally:
            await events.aclose()

    def __enter__(self) -> "_Count":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ClientDisconnect | asyncio.CancelledError):
            self._status = _CLIENT_GONE
        elif error is not None:
            self._status = refusal_of(error).status
        self._metrics.requests.labels(self._label, str(self._status)).inc()
        self._metrics.seconds.labels(self._label).observe(time.monotonic() - self._begin)


async def _in_time(events: AsyncGenerator[Event, None], until: float) -> AsyncGenerator[Event, None]:
    """The same events; a TimeoutError where one comes too late."""
    try:
        while True:
            try:
                async with asyncio.timeout_at(until):
                    event = await anext(events)
            except StopAsyncIteration:
                return
            yield event
    finally:
        await events.aclose()


async def _after(first: Event, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """An event that was awaited, and those after it."""
    yield first
    async for event in events:
        yield event


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=_CLIENT_GONE)
    refusal = refusal_of(error)
    if refusal.status >= 500 and isinstance(error, UserError):  # of other errors the server logs the traceback
        logger.error("%s failed", request.url.path, exc_info=error)
    return JSONResponse(refusal.body, status_code=refusal.status, headers=refusal.headers)


async def _refuse_http(request: Request, error: Exception) -> Response:
    """An error of the framework's own, such as a path or a method that is not there."""
    status = getattr(error, "status_code", 404)
    return await _refuse(request, Refusal(status, f"{request.method} {request.url.path[:80]}: {error}"[:200]))
