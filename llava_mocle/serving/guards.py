"""What a request must pass before its content is looked at: the key, the room, the size and the time of its body."""

import asyncio
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from llava_mocle.serving.refusal import Refusal, full

T = TypeVar("T")


def check_key(request: Request, key: str | None) -> None:
    """Refuse a request without the server's bearer key; everyone may ask where there is none.

    Raises:
        Refusal: 401.
    """
    if key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode()):
        return
    raise Refusal(
        401,
        "the key is missing or wrong; send the header Authorization: Bearer KEY",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


class Room:
    """How many requests are being answered or wait, and how many may.

    Attributes:
        taken: how many there are.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place.

        Raises:
            Refusal: 503, there is none.
        """
        if self.taken >= self.most:
            raise full()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """The body of a request with JSON. Not more of it is read than may be kept.

    Args:
        most: bytes.
        seconds: that the whole body may take to arrive.

    Raises:
        Refusal: 415 for another kind of content, 413 above `most` bytes, 408 when it does not arrive in time.
        ClientDisconnect: the client has gone.
    """
    # Pages of other sites can send a form or plain text to this machine without asking, and JSON they cannot.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "send JSON, with the header Content-Type: application/json", code="unsupported_media_type")
    too_large = Refusal(413, f"the request is larger than the {most:,} bytes that this server takes", code="too_large")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
    except TimeoutError as error:
        raise Refusal(408, f"the request took longer than {seconds:g} s to arrive", code="timeout") from error
    return b"".join(parts)


async def gone(request: Request) -> None:
    """Wait until the client of a request has gone, whose body was read to its end."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: asyncio.Future[T]) -> T:
    """Wait for some work, but not for longer than its client does.

    Raises:
        ClientDisconnect: the client has gone; the work is cancelled.
    """
    watch = asyncio.ensure_future(gone(request))
    both: set[asyncio.Future[Any]] = {work, watch}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        watch.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
