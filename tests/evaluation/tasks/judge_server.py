"""A judge on this machine that replies what a test wrote down."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

Reply = tuple[int, str | None]


@contextmanager
def judge_server(
    reply: Callable[[str], Reply], cut_short: int = 0, location: str = "", silent: bool = False
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yields (base address, requests so far: their path, headers and body).

    Args:
        reply: the prompt -> (HTTP status, content of the message, or None for null; with a status other than 200, the
            whole body).
        cut_short: how many replies, from the first, end before the length that they state.
        location: where each reply redirects to, with a status that does.
        silent: requests are read, and not answered before the end.
    """
    seen: list[dict[str, Any]] = []
    end = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"path": self.path, "headers": dict(self.headers), "body": body})
            if silent:
                end.wait()
                return
            status, text = reply(body["messages"][-1]["content"])
            content = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})
            body_bytes = (content if status == 200 else str(text)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body_bytes)))
            if location:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(body_bytes[:-1] if len(seen) <= cut_short else body_bytes)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", seen
    finally:
        end.set()
        server.shutdown()
        server.server_close()
        thread.join()
