"""A server in a thread of this process, on a free port."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from llava_mocle.serving.backend import Backend
from llava_mocle.serving.front import Settings, create_app
from llava_mocle.serving.metrics import Metrics
from llava_mocle.serving.server import bind, url_of

PATIENCE = 120.0


class Live:
    """A server that is running.

    Attributes:
        url: of its root.
    """

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.url = url
        self._loop = loop

    def wait(self, what: Callable[[], Awaitable[Any]]) -> Any:
        """Await something in the server's loop."""

        async def inner() -> Any:
            return await what()

        return asyncio.run_coroutine_threadsafe(inner(), self._loop).result(PATIENCE)

    def connect(self) -> socket.socket:
        """A connection of one's own."""
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=PATIENCE)


@contextmanager
def running(app: Any, backend: Backend | None = None) -> Iterator[Live]:
    """Serve an application until the end of the block."""
    place, started = bind("127.0.0.1", 0), threading.Event()
    config = uvicorn.Config(app, lifespan="off", log_level="critical", access_log=False)
    server = uvicorn.Server(config)
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        if backend is not None:
            await backend.start()
        loop.call_soon(started.set)
        try:
            await server.serve(sockets=[place])
        finally:
            if backend is not None:
                await backend.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(PATIENCE)
    try:
        yield Live(url_of(place), loop)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()
        loop.close()


@contextmanager
def front(backend: Backend, settings: Settings | None = None) -> Iterator[Live]:
    """The front over a backend."""
    with running(create_app(backend, settings or Settings(), Metrics()), backend) as live:
        yield live
