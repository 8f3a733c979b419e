"""The own engine on a tiny model: many requests at once are answered as each by itself."""

import asyncio
import threading

import httpx2
import openai
import pytest

from llava_mocle.data.conversation import Turn
from llava_mocle.data.images import load_image
from llava_mocle.inference import Predictor, Request
from llava_mocle.serving import together
from llava_mocle.serving.front import Settings
from llava_mocle.serving.own_engine import OwnEngine
from tests.inference import tiny
from tests.serving.live import PATIENCE, front
from tests.serving.pngs import uri

CHAT = "/v1/chat/completions"


class Batches:
    """The batches of an engine, and a way to wait for one."""

    def __init__(self):
        self.all = []
        self._changed = threading.Condition()

    def __call__(self, batch):
        with self._changed:
            self.all.append(batch)
            self._changed.notify_all()

    def wait_for(self, test):
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(test, self.all)), PATIENCE)


@pytest.fixture(scope="module")
def batches():
    return Batches()


@pytest.fixture(scope="module")
def live(checkpoint_dir, batches):
    # One of its own: an engine's predictor is for its thread alone, and the tests ask another one.
    own = Predictor.from_pretrained(checkpoint_dir, device="cpu", dtype="float32")
    with front(OwnEngine(own, max_batch=16, watch=batches), Settings(most_requests=200)) as server:
        yield server


@pytest.fixture
def asked(images):
    """30 requests for each of three clusters: with and without pictures, of several lengths and limits."""
    found = []
    for number in range(90):
        question = f"{tiny.QUESTIONS[number % len(tiny.QUESTIONS)]} Part {number}." + " And again." * (number % 3)
        image = images[number % len(images)] if number % 4 else None
        found.append((question, image, number % 3, 4 + number % 9))
    return found


def body(question, image, cluster, limit, **fields):
    content = [{"type": "text", "text": question}]
    if image is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": uri(image.read_bytes())}})
    messages = [{"role": "user", "content": content}]
    return {"model": f"mocle/cluster_{cluster}", "messages": messages, "max_tokens": limit, **fields}


def test_90_at_once_are_answered_as_each_alone(live, batches, predictor, asked):
    expected = [
        predictor.predict(image, question, max_new_tokens=limit, cluster_id=cluster)
        for question, image, cluster, limit in asked
    ]

    async def ask_all():
        async with openai.AsyncOpenAI(
            base_url=f"{live.url}/v1", api_key="-", max_retries=0, timeout=PATIENCE
        ) as client:

            async def ask(number):
                fields = body(*asked[number])
                if number % 2:
                    return await client.chat.completions.create(**fields)
                chunks = [chunk async for chunk in await client.chat.completions.create(**fields, stream=True)]
                return "".join(chunk.choices[0].delta.content or "" for chunk in chunks), chunks[-1]

            return await asyncio.gather(*map(ask, range(len(asked))))

    before = len(batches.all)
    found = asyncio.run(ask_all())
    differ = 0
    for number, (response, prediction) in enumerate(zip(found, expected, strict=True)):
        if number % 2:
            assert response.choices[0].message.content == prediction.text
            assert response.mocle["near_tie"] is False
            assert response.mocle["cluster_id"] == prediction.cluster_id
        else:
            text, last = response
            # A stream that met a near tie says so: its batch may have decided it.
            assert text == prediction.text or last.mocle["near_tie"]
            differ += text != prediction.text
    assert differ <= 3
    # The comparison means something only if rows were together, and the answers differ in text and length.
    assert max(batch.rows for batch in batches.all[before:]) >= 8
    assert len({prediction.text for prediction in expected}) > 20
    assert len({prediction.num_tokens for prediction in expected}) > 5


def ask(live, *arguments, **fields):
    response = httpx2.post(live.url + CHAT, json=body(*arguments, **fields), timeout=PATIENCE)
    assert response.status_code == 200, response.text
    return response.json()


def test_several_turns_and_a_system_text(live, predictor, images):
    """They are routed by the first turn, and the model reads what a row with these turns gives it."""
    first, second = tiny.QUESTIONS[0], tiny.QUESTIONS[4]
    messages = [
        {"role": "system", "content": "Be short."},
        *body(first, images[0], 0, 9)["messages"],
        {"role": "assistant", "content": "It is red."},
        {"role": "user", "content": second},
    ]
    asked = {"model": "mocle", "messages": messages, "max_tokens": 9}
    found = httpx2.post(live.url + CHAT, json=asked, timeout=PATIENCE).json()
    (cluster,), _ = predictor.cluster_model.assign([first])
    assert found["mocle"]["cluster_id"] == cluster != predictor.cluster_model.assign([second])[0][0]
    row = {
        "image": [str(images[0])],
        "conversations": [
            {"from": "human", "value": f"<image>\n{first}"},
            {"from": "gpt", "value": "It is red."},
            {"from": "human", "value": second},
            {"from": "gpt", "value": "x"},
        ],
    }
    encoder = predictor.loaded.encoder(system="Be short.")
    sample = encoder.encode(row, [load_image(images[0])], [images[0]])
    supervised = (sample["labels"] != -100).nonzero().flatten().tolist()
    start = next(place for place in reversed(supervised) if place - 1 not in supervised)
    assert found["usage"]["prompt_tokens"] == start
    request = Request(
        second,
        images[0],
        history=(Turn("human", f"<image>\n{first}"), Turn("gpt", "It is red.")),
        system="Be short.",
    )
    (prepared,) = predictor.prepare([request])
    assert prepared.sample["input_ids"].tolist() == sample["input_ids"][:start].tolist()
    assert found["choices"][0]["message"]["content"] == predictor.predict_batch([request], max_new_tokens=9)[0].text


def test_seeds_limits_and_stops(live):
    question = (tiny.QUESTIONS[1], None, 1)
    one = ask(live, *question, 12, temperature=1.5, seed=3, n=3)
    texts = [choice["message"]["content"] for choice in one["choices"]]
    assert len(set(texts)) > 1
    again = ask(live, *question, 12, temperature=1.5, seed=3, n=3)
    assert [choice["message"]["content"] for choice in again["choices"]] == texts
    # The second answer has the next seed, and one of a nucleus that holds the likeliest token alone is greedy.
    assert ask(live, *question, 12, temperature=1.5, seed=4)["choices"][0]["message"]["content"] == texts[1]
    greedy = ask(live, *question, 12)["choices"][0]["message"]["content"]
    assert ask(live, *question, 12, temperature=1.5, top_p=1e-9)["choices"][0]["message"]["content"] == greedy
    cut = ask(live, *question, 2)
    assert (cut["choices"][0]["finish_reason"], cut["usage"]["completion_tokens"]) == ("length", 2)
    stop = greedy[2:4]
    stopped = ask(live, *question, 12, stop=[stop])
    assert stopped["choices"][0]["message"]["content"] == greedy[: greedy.index(stop)].strip()
    assert stopped["choices"][0]["finish_reason"] == "stop"


def test_log_probabilities(live, predictor):
    """Reference: full forwards in float32, summed in float64."""
    import torch

    question = tiny.QUESTIONS[1]
    found = ask(live, question, None, 2, 5, logprobs=True, top_logprobs=3)["choices"][0]["logprobs"]["content"]
    (prepared,) = predictor.prepare([Request(question, cluster_id=2)])
    ids = prepared.sample["input_ids"].tolist()
    for token in found:
        with torch.no_grad():
            logits = predictor.model(input_ids=torch.tensor([ids]), cluster_ids=torch.tensor([2])).logits[0, -1]
        expected = logits.double().log_softmax(-1)
        best = expected.topk(3)
        # Sums of float32 in another order, with and without a cache.
        assert token["logprob"] == pytest.approx(float(expected.max()), abs=1e-4)
        values = [other["logprob"] for other in token["top_logprobs"]]
        assert values == pytest.approx(best.values.tolist(), abs=1e-4)
        assert token["token"] == predictor.tokenizer.decode([int(expected.argmax())])
        ids.append(int(expected.argmax()))


def test_a_client_that_leaves_frees_its_row(live, batches):
    """A stream is closed after its first text. Its row ends, long before the answer would."""
    # A nucleus of the likeliest tokens hardly ever ends here; the limit is the context's end, 512 tokens.
    fields = body(tiny.QUESTIONS[2], None, 0, 400, temperature=5.0, seed=1, stream=True)
    with httpx2.stream("POST", live.url + CHAT, json=fields, timeout=PATIENCE) as response:
        lines = response.iter_lines()
        while '"content":"' not in next(lines).replace('"content":""', ""):
            pass
    batches.wait_for(lambda batch: batch.cancelled == 1)
    (batch,) = [batch for batch in batches.all if batch.cancelled]
    assert batch.steps < 300


def test_a_near_tie_is_answered_again_alone(live, predictor, batches, monkeypatch):
    """Every step is called a near tie: who is not streamed is answered alone, as a predictor does."""
    monkeypatch.setattr(together, "TIE_MARGIN", 1e9)
    before = len(batches.all)

    async def both():
        async with httpx2.AsyncClient(base_url=live.url, timeout=PATIENCE) as client:
            bodies = [body(question, None, 1, 6) for question in tiny.QUESTIONS[:4]]
            bodies.append(body(tiny.QUESTIONS[4], None, 1, 6, stream=True))
            return await asyncio.gather(*(client.post(CHAT, json=one) for one in bodies))

    *whole, streamed = asyncio.run(both())
    for question, response in zip(tiny.QUESTIONS, whole, strict=False):
        found = response.json()
        expected = predictor.predict(None, question, max_new_tokens=6, cluster_id=1)
        assert found["choices"][0]["message"]["content"] == expected.text
        assert found["mocle"]["near_tie"] is False
    rows = [batch.rows for batch in batches.all[before:]]
    if max(rows) > 1:
        assert rows.count(1) >= max(rows) - 1
    assert '"near_tie":' in streamed.text


def test_prompts_that_cannot_be_answered(live):
    for fields, message in (
        (body("word " * 600, None, 0, 5), "at most 512"),
        (body("Why?", None, 0, 5) | {"model": "mocle/cluster_9"}, "no model"),
    ):
        response = httpx2.post(live.url + CHAT, json=fields, timeout=PATIENCE)
        assert 400 <= response.status_code < 500
        assert message in response.json()["error"]["message"]
    cut = uri(b"\x89PNG\r\n\x1a\n" + b"\0" * 30)
    fields = body("Why?", None, 0, 5)
    fields["messages"][0]["content"].insert(0, {"type": "image_url", "image_url": {"url": cut}})
    assert httpx2.post(live.url + CHAT, json=fields, timeout=PATIENCE).status_code == 400


def test_an_engine_that_fails_tells_no_more(predictor, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr("llava_mocle.serving.own_engine.answer_together", fail)
    with front(OwnEngine(predictor)) as server:
        response = httpx2.post(server.url + CHAT, json=body("Why?", None, 0, 5), timeout=PATIENCE)
        assert (response.status_code, "secret" in response.text) == (500, False)
        monkeypatch.undo()
        assert httpx2.post(server.url + CHAT, json=body("Why?", None, 0, 5), timeout=PATIENCE).status_code == 200
