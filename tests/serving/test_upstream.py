"""The router in front of a stand-in engine, on a bundle of a tiny cluster model."""

import asyncio
import base64
import hashlib
import io
import json
from contextlib import closing

import httpx2
import pytest
from PIL import Image

from llava_mocle.clustering import ClusterModel
from llava_mocle.errors import ConfigError
from llava_mocle.export.bundle import (
    BUNDLE_FILE,
    ROUTING_FILE,
    Bundle,
    ClusterEntry,
    ImageFacts,
    Manifest,
    OutOfDistribution,
    Routing,
    write_json,
)
from llava_mocle.inference.weighting import FAR
from llava_mocle.serving.server import bind, url_of
from llava_mocle.serving.upstream import Upstream
from tests.inference import tiny
from tests.serving.engine import Engine
from tests.serving.live import PATIENCE, front, running
from tests.serving.pngs import png, uri

ADAPTERS = ["cluster_0", "cluster_1", "cluster_2", "universal"]
STRANGE = "zzz ### 12345 qqq"
CHAT = "/v1/chat/completions"


def ask(text, **fields):
    return {"model": "mocle", "messages": [{"role": "user", "content": text}], **fields}


@pytest.fixture(scope="module")
def clusters(encoder_dir):
    return ClusterModel.fit(tiny.QUESTIONS, 3, encoder=str(encoder_dir), progress=False, seed=0)


@pytest.fixture(scope="module")
def far_distance(clusters):
    """Half-way between the farthest question and the strange one, so that no rounding decides which of them is far."""
    farthest, strange = max(clusters.assign(tiny.QUESTIONS)[1]), clusters.assign([STRANGE])[1][0]
    assert strange > farthest + 0.01
    return float(farthest + strange) / 2


@pytest.fixture(scope="module")
def bundle(clusters, far_distance, tmp_path_factory):
    """What a router reads of a bundle; the engine's part of it is left out."""
    folder = tmp_path_factory.mktemp("bundle")
    clusters.save(folder / "clusters")
    entries = tuple(
        ClusterEntry(
            cluster,
            f"cluster_{cluster}",
            {"a.up_proj": (cluster,), "a.down_proj": (0,)},
            {"a.up_proj": (0.75,), "a.down_proj": (0.5,)},
            0.375,
            2.0,
            tuple(example.text for example in clusters.nearest_examples(cluster)),
        )
        for cluster in range(3)
    )
    routing = Routing(
        router="cluster",
        num_experts=3,
        universal=True,
        sites=("a.up_proj", "a.down_proj"),
        clusters=entries,
        ood=OutOfDistribution(FAR, far_distance),
        instruction=clusters.rule,
        template="vicuna_v1",
        image=ImageFacts("pad", (10, 20, 30), None, 4),
        stop_token_ids=(2,),
        stop_strings=(),
        context_length=512,
        num_clusters=3,
    )
    config = folder / "clusters" / "config.json"
    digest = hashlib.sha256(config.read_bytes()).hexdigest()
    manifest = Manifest(
        "tiny@1", "float32", "vllm", "vllm", dict.fromkeys(ADAPTERS, 8), {"clusters/config.json": digest}, "run it"
    )
    write_json(folder / BUNDLE_FILE, manifest)
    write_json(folder / ROUTING_FILE, routing)
    return Bundle.open(folder)


@pytest.fixture(scope="module")
def engine():
    return Engine(ADAPTERS)


@pytest.fixture(scope="module")
def engine_live(engine):
    with running(engine.app) as live:
        yield live


@pytest.fixture(scope="module", params=["vllm", "sglang", "llamacpp"])
def router(request, bundle, engine_live, encoder_dir):
    upstream = Upstream(
        bundle, f"{engine_live.url}/v1/", engine=request.param, ood="universal", encoder=str(encoder_dir)
    )
    with front(upstream) as live, httpx2.Client(base_url=live.url, timeout=PATIENCE) as http:
        yield http


def test_every_question_goes_to_its_clusters_adapter(router, clusters):
    ids, distances = clusters.assign(tiny.QUESTIONS)
    assert len(set(ids.tolist())) == 3
    for question, cluster, distance in zip(tiny.QUESTIONS, ids.tolist(), distances.tolist(), strict=True):
        response = router.post(CHAT, json=ask(question, n=2))
        found = response.json()
        assert [choice["message"]["content"] for choice in found["choices"]] == [f"cluster_{cluster} says été"] * 2
        told = found["mocle"]
        assert (told["cluster_id"], told["gate"], told["universal_weight"]) == (cluster, 0.625, 0.375)
        assert told["distance"] == pytest.approx(distance, abs=2e-5)
        assert (told["near_tie"], told["out_of_distribution"]) == (None, False)
        assert response.headers["x-mocle-cluster-id"] == str(cluster)
        assert found["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def test_what_is_far_goes_to_the_universal_expert(router):
    found = router.post(CHAT, json=ask(STRANGE)).json()
    assert found["choices"][0]["message"]["content"] == "universal says été"
    assert found["mocle"]["out_of_distribution"] is True
    assert (found["mocle"]["gate"], found["mocle"]["universal_weight"]) == (0.0, 1.0)
    forced = router.post(CHAT, json=ask(STRANGE) | {"model": "mocle/cluster_2"}).json()
    assert forced["choices"][0]["message"]["content"] == "cluster_2 says été"


def test_a_stream(router):
    response = router.post(CHAT, json=ask(STRANGE, stream=True, stream_options={"include_usage": True}))
    events = [json.loads(line[6:]) for line in response.text.split("\n\n") if line and line != "data: [DONE]"]
    texts = [choice["delta"].get("content", "") for event in events for choice in event["choices"]]
    assert "".join(texts) == "universal says été"
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert events[-1]["usage"]["total_tokens"] == 12


def test_what_the_engine_is_asked(router, engine):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri(png(6, 4))}},
                                     {"type": "text", "text": " What is it? "}]},
        {"role": "assistant", "content": "A dog."},
        {"role": "user", "content": " Sure? "},
    ]  # fmt: skip
    fields = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["x"], "max_tokens": 9, "n": 1}
    assert router.post(CHAT, json={"model": "mocle", "messages": messages, **fields}).status_code == 200
    body = engine.asked[-1]
    assert {name: body[name] for name in fields} == fields
    if "lora" in body:  # llama.cpp's own defaults are 40 and 0.05
        assert (body["top_k"], body["min_p"], body["cache_prompt"]) == (0, 0.0, False)
    system, user, assistant, last = body["messages"]
    assert (system["content"], assistant["content"], last["content"]) == ("Be short.", "A dog.", " Sure? ")
    image, text = user["content"]
    assert text == {"type": "text", "text": "What is it?"}
    sent = base64.b64decode(image["image_url"]["url"].partition(",")[2])
    # Padded to a square on the bundle's colour, the picture in the middle.
    square = Image.open(io.BytesIO(sent))
    assert square.size == (6, 6)
    assert [square.getpixel((2, y)) for y in range(6)] == [(10, 20, 30), *[(200, 30, 30)] * 4, (10, 20, 30)]


@pytest.mark.parametrize(("status", "expected"), [(400, 400), (404, 502), (500, 502), (503, 503), (429, 503)])
@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_refuses(router, engine, status, expected, stream):
    engine.status = status
    try:
        response = router.post(CHAT, json=ask("Why?", stream=stream))
    finally:
        engine.status = 200
    assert response.status_code == expected
    assert ("not today" in response.json()["error"]["message"]) == (status == 400)
    assert ("retry-after" in response.headers) == (expected == 503)


def start_now(upstream):
    async def inner():
        try:
            await upstream.start()
        finally:
            await upstream.close()

    asyncio.run(inner())


def test_health_is_the_engines(router, engine):
    assert router.get("/health").status_code == 200
    engine.status = 500
    try:
        response = router.get("/health")
    finally:
        engine.status = 200
    assert (response.status_code, response.json()) == (503, {"status": "the engine does not answer"})


def test_health_without_an_engine(bundle, encoder_dir):
    """Its port is closed."""

    async def alive():
        upstream = Upstream(bundle, url_of(place), encoder=str(encoder_dir))
        try:
            return await upstream.alive()
        finally:
            await upstream.close()

    with closing(bind("127.0.0.1", 0)) as place:  # bound and not listening, so that nobody else takes it
        assert not asyncio.run(alive())


def test_adapters_that_change_nothing_are_refused(bundle, encoder_dir):
    with running(Engine(ADAPTERS, idle=("cluster_1", "universal")).app) as live:
        message = "base's log-probabilities for cluster_1, universal"
        with pytest.raises(ConfigError, match=message):
            start_now(Upstream(bundle, live.url, encoder=str(encoder_dir)))


def test_engines_that_do_not_serve_the_bundle(bundle, encoder_dir):
    with running(Engine(["cluster_0", "cluster_2", "universal"]).app) as live:
        for engine in ("vllm", "llamacpp"):
            with pytest.raises(ConfigError, match="does not serve cluster_1"):
                start_now(Upstream(bundle, live.url, engine=engine, encoder=str(encoder_dir)))
    with pytest.raises(ConfigError, match=r"no vllm that serves this bundle .* Start it in .* with: run it"):
        start_now(Upstream(bundle, live.url, encoder=str(encoder_dir)))
    with running(Engine(ADAPTERS, key="a-key").app) as live:
        with pytest.raises(ConfigError, match="no vllm that serves this bundle"):
            start_now(Upstream(bundle, live.url, encoder=str(encoder_dir)))
        start_now(Upstream(bundle, live.url, encoder=str(encoder_dir), key="a-key"))


def test_options_that_do_not_fit(bundle):
    with pytest.raises(ConfigError, match="expected one of vllm, sglang, llamacpp"):
        Upstream(bundle, "http://127.0.0.1:1", engine="tgi")
    for url in ("127.0.0.1:8001", "http://[::1", "ftp://127.0.0.1", "http://"):
        with pytest.raises(ConfigError, match=r"--upstream is .* expected an address such as"):
            Upstream(bundle, url)
