"""Running the front until a signal ends it: requests that are being answered are answered to their end."""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from llava_mocle.errors import ConfigError
from llava_mocle.serving.backend import Backend

# Named, not given on the command line, where everyone on the machine may read it.
KEY_VARIABLE = "LLAVA_MOCLE_API_KEY"
UPSTREAM_KEY_VARIABLE = "LLAVA_MOCLE_UPSTREAM_KEY"


def read_key(file: str | os.PathLike[str] | None, variable: str = KEY_VARIABLE) -> str | None:
    """The bearer key, from a file or else from an environment variable; None where there is neither.

    Raises:
        ConfigError: the file cannot be read, or the key is empty or not one that a header can hold.
    """
    if file is None:
        key, place = os.environ.get(variable), variable
    else:
        place = os.fspath(file)
        try:
            key = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--api-key-file {place}: cannot be read ({error})") from error
    if key is None:
        return None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{place}: the key must be one word of letters, digits and signs of ASCII, and not empty")
    return key


def check_open(host: str, key: str | None, open_to_all: bool) -> None:
    """Refuse to listen to other machines without a key.

    Raises:
        ConfigError: says what to do.
    """
    if key is None and not open_to_all and not is_loopback(host):
        raise ConfigError(
            f"--host is {host}, so other machines can reach this server, and it has no key: put one into a file "
            f"(--api-key-file) or into {KEY_VARIABLE}, or say --no-api-key if everyone may use it"
        )


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach a server that listens there."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def bind(host: str, port: int) -> socket.socket:
    """Take a place to listen at, before anything that takes longer. Nobody can connect yet.

    Args:
        port: 0 chooses a free one.

    Raises:
        ConfigError: it is taken, or not of this machine.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port is {port}; expected 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at {host}:{port} ({error}); choose another --port or --host") from error
    return taken


def url_of(place: socket.socket) -> str:
    """The URL of a server that listens there."""
    host, port = place.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def run(app: Any, backend: Backend, place: socket.socket, drain_seconds: float, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then take no new requests and finish those that there are.

    Args:
        drain_seconds: that they may take.
        ready: called with the server's URL once it can answer.

    Raises:
        UserError: the backend cannot start.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
        timeout_keep_alive=20,
        server_header=False,
        ws="none",
    )

    async def serve() -> None:
        server, starting = uvicorn.Server(config), asyncio.ensure_future(backend.start())

        def end() -> None:
            starting.cancel()
            server.should_exit = True

        # While it serves, uvicorn has handlers of its own. Once it has ended it sends itself the signal again, which
        # without a handler would end the program before the backend is closed.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, end)
        try:
            await asyncio.wait({starting})
            if starting.cancelled():
                return
            starting.result()
            place.listen()  # who connects from here on waits for the few moments until the server looks
            ready(url_of(place))
            await server.serve(sockets=[place])
        finally:
            await backend.close()

    asyncio.run(serve())
