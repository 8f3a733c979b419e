"""The front over a backend without a model, asked over a real connection."""

import json
import time
from contextlib import closing
from http.client import HTTPConnection

import httpx2
import openai
import pytest

from llava_mocle.errors import DataError
from llava_mocle.serving.backend import Piece
from llava_mocle.serving.front import Settings
from llava_mocle.serving.question import Limits
from tests.serving.live import PATIENCE, front
from tests.serving.pngs import bomb, png, uri
from tests.serving.stand_in import StandIn

KEY = "a-key"
SETTINGS = Settings(
    key=KEY,
    origins=["https://example.org"],
    limits=Limits(body=200_000, text=1000),
    most_requests=3,
    body_seconds=1.0,
)
ASK = {"model": "mocle", "messages": [{"role": "user", "content": "Which plane is it?"}]}
CHAT = "/v1/chat/completions"
STATE = {
    "cluster_id": 1,
    "distance": 0.625,
    "gate": 0.5,
    "universal_weight": 0.5,
    "out_of_distribution": False,
    "near_tie": False,
}


@pytest.fixture(scope="module")
def backend():
    return StandIn()


@pytest.fixture(scope="module")
def live(backend):
    with front(backend, SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def http(live):
    with httpx2.Client(base_url=live.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def client(live):
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=KEY, max_retries=0, timeout=PATIENCE) as client:
        yield client


def test_an_answer_by_openais_client(client):
    response = client.chat.completions.with_raw_response.create(**ASK, n=2)
    found = response.parse()
    assert [choice.message.content for choice in found.choices] == ["Which plane is it?"] * 2
    assert [choice.finish_reason for choice in found.choices] == ["stop"] * 2
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (7, 8, 15)
    assert found.mocle == STATE
    assert response.headers["x-mocle-cluster-id"] == "1"
    assert response.headers["x-mocle-distance"] == "0.625"
    assert response.headers["x-mocle-universal-weight"] == "0.5"


def test_a_stream_by_openais_client(client):
    chunks = list(client.chat.completions.create(**ASK, n=2, stream=True, stream_options={"include_usage": True}))
    texts = ["", ""]
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        assert chunk.usage is None
    assert texts == ["Which plane is it?"] * 2
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant"] * 2
    assert [chunk.choices[0].finish_reason for chunk in chunks[-3:-1]] == ["stop"] * 2
    assert chunks[0].mocle == STATE | {"near_tie": None}
    assert chunks[-2].mocle == STATE
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 15)
    assert len({chunk.id for chunk in chunks}) == 1


def test_models(client):
    assert [model.id for model in client.models.list()] == ["mocle", "mocle/cluster_0", "mocle/cluster_1"]
    assert client.models.retrieve("mocle/cluster_1").id == "mocle/cluster_1"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("mocle/cluster_2")
    forced = client.chat.completions.create(model="mocle/cluster_0", messages=ASK["messages"])
    assert (forced.mocle["cluster_id"], forced.mocle["distance"]) == (0, None)
    extras = client.chat.completions.create(**ASK, extra_body={"cluster_id": 0, "route_text": "elsewhere"})
    assert extras.mocle["cluster_id"] == 0


def test_clusters_health_and_page(http):
    found = http.get("/mocle/clusters").json()
    assert [cluster["cluster_id"] for cluster in found["clusters"]] == [0, 1]
    assert found["clusters"][1]["nearest"] == ["Which plane?", "<b>bold?</b>"]
    assert http.get("/health").json()["status"] == "ok"
    page = http.get("/", headers={"Authorization": ""})
    assert page.status_code == 200
    assert "text/html" in page.headers["content-type"]
    assert "default-src 'none'" in page.headers["content-security-policy"]


def shaped(response: httpx2.Response) -> dict:
    """The error of a response, which must have OpenAI's shape."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in response.text
    return error


def image(url):
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        (image(uri(bomb())), 413, "image_too_large"),
        (image("http://127.0.0.1/a.png"), 400, "url_not_supported"),
        (image(uri(b"x")), 400, "invalid_image"),
        ({"messages": [{"role": "user", "content": [image(uri(png()))["messages"][0]["content"][0]] * 40}]}, 400,
         "too_many_images"),
        ({"model": "gpt-4"}, 404, "model_not_found"),
        ({"temperature": "hot"}, 400, "invalid_request"),
        ({"messages": [{"role": "user", "content": "a" * 1001}]}, 413, "text_too_long"),
        ({"messages": [{"role": "user", "content": "a" * 10_000_000}]}, 413, "too_large"),
    ],
    ids=["bomb", "url", "no image", "images", "model", "type", "text", "10 MB"],
)  # fmt: skip
def test_requests_that_are_refused(http, backend, fields, status, code):
    before = len(backend.asked)
    response = http.post(CHAT, json=ASK | fields)
    assert (response.status_code, shaped(response)["code"]) == (status, code)
    assert len(backend.asked) == before


@pytest.mark.parametrize("body", [b"", b'{"model": "mocle", "messages": [{"role"', b"\x00\xff"])
def test_what_is_no_json(http, body):
    response = http.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    shaped(response)


def test_other_content_paths_and_methods(http):
    response = http.post(CHAT, content=json.dumps(ASK), headers={"Content-Type": "text/plain"})
    assert (response.status_code, shaped(response)["code"]) == (415, "unsupported_media_type")
    for method, path, status in (("GET", "/nothing", 404), ("GET", CHAT, 405), ("GET", "/docs", 404)):
        response = http.request(method, path)
        assert response.status_code == status
        shaped(response)


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/mocle/clusters", "/metrics"])
@pytest.mark.parametrize("given", ["", "Bearer wrong", "Basic a-key", "Bearer", "Bearer a-key-and-more"])
def test_the_key(http, path, given):
    method = "POST" if path == CHAT else "GET"
    response = http.request(method, path, json=ASK if path == CHAT else None, headers={"Authorization": given})
    assert (response.status_code, shaped(response)["code"]) == (401, "invalid_api_key")


def test_pages_of_other_sites(http):
    asked = {
        "Origin": "https://example.org",
        "Access-Control-Request-Method": "POST",
        # What OpenAI's client for browsers sends.
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang,x-stainless-retry-count",
    }
    allowed = http.options(CHAT, headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://example.org"
    refused = http.options(CHAT, headers=asked | {"Origin": "https://elsewhere.org"})
    assert "access-control-allow-origin" not in refused.headers


def test_a_body_that_does_not_come(live):
    """A body in parts, without its length; then nothing more."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    with live.connect() as connection:
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert b" 408 " in connection.recv(100)
    with live.connect() as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        part = b"30000\r\n" + b"x" * 0x30000 + b"\r\n"
        connection.sendall(part)
        connection.sendall(part)
        assert b" 413 " in connection.recv(100)


def test_a_full_server_and_clients_that_leave(live, http, backend):
    """Three streams wait, so the fourth request is sent away; they are closed, and there is room again."""
    backend.wait = True
    live.wait(lambda: _clear(backend.given_up))
    streams = [http.send(http.build_request("POST", CHAT, json=ASK | {"stream": True}), stream=True) for _ in range(3)]
    try:
        assert [stream.status_code for stream in streams] == [200] * 3
        response = http.post(CHAT, json=ASK)
        assert (response.status_code, shaped(response)["code"]) == (503, "queue_full")
        assert int(response.headers["retry-after"]) >= 1
        assert http.get("/health").status_code == 200
        assert "mocle_active_requests 3.0" in http.get("/metrics").text
    finally:
        for stream in streams:
            stream.close()
    live.wait(backend.given_up.wait)
    backend.wait = False
    # Each of the three gives its place back when its client has gone.
    while http.get("/metrics").text.count("mocle_active_requests 0.0") == 0:
        pass
    assert backend.running == 0
    assert http.post(CHAT, json=ASK).status_code == 200


async def _clear(event):
    event.clear()


def ask_and_leave(live, backend):
    """A client that is gone before its answer comes, which the server has noticed."""
    backend.wait = True
    live.wait(lambda: _clear(backend.given_up))
    body = json.dumps(ASK)
    with live.connect() as connection:
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        while backend.running == 0:
            pass
    live.wait(backend.given_up.wait)
    backend.wait = False


def test_a_client_that_leaves_before_its_answer(live, backend):
    ask_and_leave(live, backend)
    assert backend.running == 0


def test_errors_of_the_backend(http, backend, caplog):
    try:
        backend.error = DataError("the image in memory: can't be read")
        response = http.post(CHAT, json=ASK)
        assert (response.status_code, shaped(response)["message"]) == (400, "the image in memory: can't be read")
        backend.error = RuntimeError("/secret/path")
        response = http.post(CHAT, json=ASK)
        assert (response.status_code, shaped(response)["code"]) == (500, "internal_error")
        assert "secret" not in response.text
        assert "/secret/path" in caplog.text
        # A stream that has begun has no status to send any more. The log has what the client is not told.
        caplog.clear()
        response = http.post(CHAT, json=ASK | {"stream": True})
        events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        assert (response.status_code, events[-1]) == (200, "[DONE]")
        assert json.loads(events[-2])["error"]["code"] == "internal_error"
        assert "/secret/path" in caplog.text
    finally:
        backend.error = None
    assert http.post(CHAT, json=ASK).status_code == 200


def test_a_connection_outlives_an_error(live, backend):
    """A client sends its next request where it sent the one before. Were the server about to close that connection
    behind its response, the next request would meet a reset."""
    body, headers = json.dumps(ASK), {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    try:
        with closing(HTTPConnection(live.url.removeprefix("http://"), timeout=PATIENCE)) as connection:
            connection.connect()
            connection.auto_open = 0  # it would connect again without a word
            for error, status in ((RuntimeError("the server's"), 500), (DataError("the client's"), 400), (None, 200)):
                backend.error = error
                connection.request("POST", CHAT, body, headers)
                response = connection.getresponse()
                response.read()
                assert response.status == status
    finally:
        backend.error = None


def test_metrics():
    """One request of each kind."""
    backend, key = StandIn(), {"Authorization": f"Bearer {KEY}"}
    with front(backend, SETTINGS) as live, httpx2.Client(base_url=live.url, timeout=PATIENCE) as client:
        asked = [(ASK, key), (ASK | image(uri(bomb())), key), (ASK, {})]
        assert [client.post(CHAT, json=body, headers=sent).status_code for body, sent in asked] == [200, 413, 401]
        ask_and_leave(live, backend)
        while "mocle_active_requests 0.0" not in (text := client.get("/metrics", headers=key).text):
            pass
    for line in (
        'mocle_requests_total{cluster="1",status="200"} 1.0',
        'mocle_requests_total{cluster="none",status="413"} 1.0',
        'mocle_requests_total{cluster="none",status="401"} 1.0',
        'mocle_requests_total{cluster="1",status="499"} 1.0',
        'mocle_tokens_total{cluster="1",kind="answer"} 4.0',
        'mocle_first_text_seconds_count{cluster="1"} 2.0',
        'mocle_request_seconds_bucket{cluster="1",le="0.05"}',
        'mocle_request_seconds_count{cluster="1"} 2.0',
        "mocle_waiting_answers 0.0",
    ):
        assert line in text


def test_an_answer_that_takes_too_long():
    backend = StandIn(wait=True)
    with front(backend, Settings(answer_seconds=0.2)) as live:
        response = httpx2.post(live.url + CHAT, json=ASK, timeout=PATIENCE)
        assert (response.status_code, shaped(response)["code"]) == (504, "timeout")
        response = httpx2.post(live.url + CHAT, json=ASK | {"stream": True}, timeout=PATIENCE)
        assert '"code":"timeout"' in response.text
        assert backend.running == 0
        assert 'mocle_requests_total{cluster="1",status="504"} 2.0' in httpx2.get(f"{live.url}/metrics").text


def test_a_client_that_does_not_read_gives_its_place_back(monkeypatch):
    monkeypatch.setattr("llava_mocle.serving.front._LAST_WORDS", 0.1)

    class Talker(StandIn):
        async def generate(self, job):
            while True:
                yield Piece(0, "x" * 100_000)

    with front(Talker(), Settings(answer_seconds=0.2, most_requests=1)) as live, live.connect() as connection:
        body = json.dumps(ASK | {"stream": True})
        connection.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        assert connection.recv(12) == b"HTTP/1.1 200"
        until = time.monotonic() + PATIENCE
        while "mocle_active_requests 0.0" not in httpx2.get(f"{live.url}/metrics", timeout=PATIENCE).text:
            assert time.monotonic() < until
