"""When a rank dies, the whole run ends: the other ranks report which one it was, and end too, within seconds.

The collectives do not do that: NCCL waits many minutes, until its timeout, for a rank that is gone. So every rank also
keeps a TCP connection to rank 0. The kernel closes it when the process dies, whatever the cause. If a whole node loses
its power, which closes nothing, TCP keep-alive notices it after about 30 s.
"""

import contextlib
import json
import logging
import os
import selectors
import socket
import sys
import threading
import time
from typing import Any

logger = logging.getLogger(__name__)

_CONNECT_S = 20
# Seconds to wait for a message to arrive, and for the main thread to print the error that the death has raised in it.
_GRACE_S = 1.0
_REMEDY = "Once the cause is mended, the same command goes on from the newest checkpoint"
_GOODBYE = {"goodbye": True}


def _keep_alive(link: socket.socket) -> None:
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(link: socket.socket, message: dict[str, Any]) -> None:
    # If the other end is gone, the thread that reads from this connection notices it.
    with contextlib.suppress(OSError):
        link.sendall(json.dumps(message).encode() + b"\n")


class _Reader:
    """Splits a connection's bytes into messages."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.name = ""
        self._rest = b""

    def read(self) -> list[dict[str, Any]] | None:
        """The messages that have come in, or None when the other end is gone."""
        try:
            data = self.link.recv(65536)
        except OSError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            return [message for line in lines if isinstance(message := json.loads(line), dict)]
        except ValueError:
            return None  # not one of our ranks


class DeathWatch:
    """One rank's part of the watch.

    Args:
        rank: of this process.
        world_size: the number of ranks.
        token: a secret of this run. A connection that does not send it is ignored: it comes from somebody else.
        on_death: called in the watching thread with a sentence that names the dead rank. The default prints it and
            ends the process with exit code 1, whatever its main thread is waiting for.
    """

    def __init__(self, rank: int, world_size: int, token: str, on_death: Any = None) -> None:
        self.rank, self.world_size, self.token = rank, world_size, token
        self.on_death = on_death or self._end
        self._closed = False
        self._links: list[socket.socket] = []
        self._thread: threading.Thread | None = None

    def listen(self) -> int:
        """On rank 0: start watching; returns the port that the other ranks connect to."""
        server = socket.create_server(("", 0), backlog=self.world_size)
        self._server = server
        self._start(self._serve, server)
        return server.getsockname()[1]

    def connect(self, host: str, port: int) -> bool:
        """On every other rank: start watching. If rank 0 cannot be reached, warn and return False."""
        try:
            link = socket.create_connection((host, port), timeout=_CONNECT_S)
        except OSError as error:
            logger.warning(
                "rank %d cannot reach %s port %d (%s): only the timeout of the collectives will notice a dead rank",
                self.rank, host, port, error,
            )  # fmt: skip
            return False
        link.settimeout(None)
        _keep_alive(link)
        self._links = [link]
        _send(link, {"rank": self.rank, "host": socket.gethostname(), "token": self.token})
        self._start(self._follow, link, host)
        return True

    def fail(self, reason: str) -> None:
        """Tell the other ranks why this one is about to end. From then on it ignores the deaths of others."""
        if self._closed:
            return
        self._closed = True
        message = {"failed": self.rank, "host": socket.gethostname(), "reason": reason}
        for link in list(self._links):
            _send(link, message)

    def wait_for_reports(self) -> None:
        """Wait a moment for the report of a death: the failure of a collective is often the first sign of one."""
        time.sleep(_GRACE_S)

    def close(self) -> None:
        """Leave the watch without an alarm: this rank has done its work."""
        self._closed = True
        for link in list(self._links):
            _send(link, _GOODBYE)

    def _start(self, watch: Any, *args: Any) -> None:
        self._thread = threading.Thread(target=watch, args=args, name="death watch", daemon=True)
        self._thread.start()

    def _serve(self, server: socket.socket) -> None:
        selector = selectors.DefaultSelector()
        selector.register(server, selectors.EVENT_READ)
        readers: dict[Any, _Reader] = {}
        while True:
            for key, _ in selector.select():
                link: Any = key.fileobj
                if link is server:
                    link, _ = server.accept()
                    _keep_alive(link)
                    readers[link] = _Reader(link)
                    selector.register(link, selectors.EVENT_READ)
                elif self._is_over(readers[link]):
                    selector.unregister(link)
                    readers.pop(link).link.close()

    def _is_over(self, reader: "_Reader") -> bool:
        """Read what a rank has sent. True if it has left or died, or is not a rank of this run."""
        messages = reader.read()
        for message in messages or []:
            if "rank" in message and message.get("token") == self.token:
                reader.name = f"rank {message['rank']} ({message['host']})"
                self._links = [*self._links, reader.link]
        if not reader.name:
            return True
        goodbye = any("goodbye" in message for message in messages or [])
        failed = messages is None or any("failed" in message for message in messages)
        if goodbye or failed:
            self._links = [link for link in self._links if link is not reader.link]
        if failed and not goodbye:
            self._announce(_describe_death(reader.name, messages))
        return goodbye or failed

    def _announce(self, text: str) -> None:
        if not self._closed:
            for link in self._links:
                _send(link, {"death": text})
            self.on_death(text)

    def _follow(self, link: socket.socket, host: str) -> None:
        reader = _Reader(link)
        while True:
            messages = reader.read()
            if self._closed or (messages and any("goodbye" in message for message in messages)):
                return
            for message in messages or []:
                if "death" in message:
                    self.on_death(message["death"])
                    return
            if messages is None or any("failed" in message for message in messages):
                self.on_death(_describe_death(f"rank 0 ({host})", messages))
                return

    def _end(self, text: str) -> None:
        print(f"error: {text}; rank {self.rank} ends too. {_REMEDY}", file=sys.stderr, flush=True)
        time.sleep(_GRACE_S)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _describe_death(name: str, messages: list[dict[str, Any]] | None) -> str:
    for message in messages or []:
        if "failed" in message:
            return f"{name} failed: {message['reason']}"
    return f"{name} died without a word (killed, out of memory, or its node is gone)"
