"""Two thousand requests that are refused leave the process as large as it was."""

import gc
import resource

import httpx2
import pytest

from llava_mocle.serving.front import Settings
from llava_mocle.serving.question import Limits
from tests.serving.live import PATIENCE, front
from tests.serving.pngs import bomb, png, uri
from tests.serving.stand_in import StandIn

pytestmark = pytest.mark.slow
CHAT = "/v1/chat/completions"
ROUNDS = 200


def image(url):
    return [{"type": "image_url", "image_url": {"url": url}}]


def resident() -> int:
    """KiB of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize() // 1024


def test_memory_stays_flat():
    ask = {"model": "mocle", "messages": [{"role": "user", "content": "Why?"}]}
    bodies = [
        ask | {"messages": [{"role": "user", "content": image(uri(bomb()))}]},
        ask | {"messages": [{"role": "user", "content": image("http://example.org/a.png")}]},
        ask | {"messages": [{"role": "user", "content": image(uri(png())) * 40}]},
        ask | {"messages": [{"role": "user", "content": image(uri(b"no image" * 1000))}]},
        ask | {"messages": [{"role": "user", "content": "a" * 300_000}]},
        ask | {"model": "gpt-4"},
        ask | {"temperature": "hot"},
        ask | {"messages": [{"role": "user", "content": "x" * 3_000_000}]},
    ]
    raw = [b"{", b"[" * 50_000]
    json_head = {"Content-Type": "application/json"}
    with (
        front(StandIn(), Settings(limits=Limits(body=1 << 20))) as live,
        httpx2.Client(base_url=live.url, timeout=PATIENCE) as http,
    ):

        def flood(rounds: int) -> None:
            for _ in range(rounds):
                for body in bodies:
                    response = http.post(CHAT, json=body)
                    assert 400 <= response.status_code < 500
                    assert response.json()["error"]["message"]
                for content in raw:
                    assert http.post(CHAT, content=content, headers=json_head).status_code == 400

        flood(20)  # what the allocator keeps for itself, it has by then
        gc.collect()
        before = resident()
        flood(ROUNDS)
        gc.collect()
        # 2,000 requests, whose bodies are 1.4 MB on average. One body in ten that was kept would be 280 MB.
        assert resident() - before < 24 * 1024
        assert http.post(CHAT, json=ask).status_code == 200
