import json

import pytest

from llava_mocle.data.conversation import Turn
from llava_mocle.serving.chat_request import model_names, parse, question_of
from llava_mocle.serving.question import Decoding, Limits
from llava_mocle.serving.refusal import Refusal
from tests.serving.pngs import png, uri

USER = {"role": "user", "content": "Why?"}


def ask(**fields):
    body = {"model": "mocle", "messages": [USER], **fields}
    return question_of(parse(json.dumps(body).encode()), Limits(), [0, 1, 2])


def test_a_plain_question():
    question = ask()
    assert question.turns == (Turn("human", "Why?"),)
    assert question.decoding == Decoding(max_tokens=512)
    assert (question.system, question.pictures, question.cluster_id, question.stream) == (None, (), None, False)


def test_turns_system_text_and_images():
    first, second = uri(png()), uri(png(5, 5))
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": "What"}, _image(first), {"type": "text", "text": "is it?"}],
        },
        {"role": "assistant", "content": "A dog."},
        {"role": "user", "content": [_image(second), _image(first), {"type": "text", "text": "And these?"}]},
    ]
    question = ask(messages=messages)
    assert question.system == "Be short.\nBe kind."
    assert question.turns == (
        Turn("human", "<image>\nWhat\nis it?"),
        Turn("gpt", "A dog."),
        Turn("human", "<image>\n<image>\nAnd these?"),
    )
    assert [picture.size for picture in question.pictures] == [(6, 4), (5, 5), (6, 4)]


def test_how_to_decode():
    fields = {"n": 2, "stop": "END", "seed": 5, "temperature": 0.5, "top_p": 0.9, "max_completion_tokens": 7}
    question = ask(**fields, logprobs=True, top_logprobs=3, stream=True, route_text="Which plane?", dataset="a")
    assert question.decoding == Decoding(7, 2, 0.5, 0.9, 5, ("END",), 3)
    assert (question.stream, question.route_text, question.dataset) == (True, "Which plane?", "a")
    assert ask(stop=["a", "b"], logprobs=True).decoding == Decoding(512, stop=("a", "b"), logprobs=0)
    # What clients send of their own accord, and asks for nothing.
    nothing = {"user": "me", "frequency_penalty": 0.0, "tools": None, "response_format": {"type": "text"}, "stop": None}
    assert ask(**nothing, n=None, stream=None, temperature=None).decoding == Decoding(512)


def test_models_and_clusters():
    assert model_names([0, 2]) == ["mocle", "mocle/cluster_0", "mocle/cluster_2"]
    assert ask(model="mocle/cluster_2").cluster_id == 2
    assert ask(cluster_id=1).cluster_id == 1
    assert ask(model="mocle/cluster_1", cluster_id=1).cluster_id == 1


def _image(url):
    return {"type": "image_url", "image_url": {"url": url}}


def _user(*parts):
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"model": "gpt-4"}, 404, "no model 'gpt-4'"),
        ({"model": "mocle/cluster_3"}, 404, "no model"),
        ({"model": "mocle/cluster_-1"}, 404, "no model"),
        ({"model": 3}, 400, "model"),
        ({"cluster_id": 3}, 400, "no cluster 3"),
        ({"cluster_id": "1"}, 400, "cluster_id"),
        ({"cluster_id": True}, 400, "cluster_id"),
        ({"model": "mocle/cluster_1", "cluster_id": 2}, 400, "another cluster's"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "Why?"}, 400, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, 400, "messages.0.content"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "in turn"),
        ({"messages": [USER, USER]}, 400, "in turn"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}]}, 400, "in turn"),
        ({"messages": [{"role": "user", "content": "See <image>"}]}, 400, "image_url"),
        ({"route_text": "<image>"}, 400, "image_url"),
        ({"messages": _user({"type": "audio", "audio": "x"})}, 400, "messages.0.content"),
        ({"messages": _user({"type": "image_url", "image_url": "x"})}, 400, "image_url"),
        ({"messages": _user(_image("http://example.org/a.png"))}, 400, "fetches nothing"),
        ({"messages": _user(*[_image(uri(png()))] * 40)}, 400, "40 images"),
        ({"messages": [{"role": "system", "content": [_image(uri(png()))]}, USER]}, 400, "only the user's"),
        ({"messages": [{"role": "user", "content": "x" * 200_001}]}, 413, "200,001 characters"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "0.5"}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"n": 0}, 400, "n"),
        ({"n": 9}, 400, "at most 8"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 5000}, 400, "at most 4,096"),
        ({"stop": ["a"] * 17}, 400, "stop"),
        ({"stop": ""}, 400, "stop"),
        ({"seed": 2**70}, 400, "seed"),
        ({"top_logprobs": 2}, 400, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs"),
        ({"stream": "yes"}, 400, "stream"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"frequency_penalty": 1.0}, 400, "frequency_penalty"),
    ],
)
def test_mistakes(fields, status, message):
    with pytest.raises(Refusal, match=message) as found:
        ask(**fields)
    assert found.value.status == status


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": "mocle"}', b"[" * 100_000, b'{"a":' * 100_000,
     b'{"model": "mocle", "temperature": NaN, "messages": [{"role": "user", "content": "a"}]}',
     b'{"model": "mocle", "messages": [{"role": "user", "content": "\\ud800"}]}'],
)  # fmt: skip
def test_what_is_no_request(body):
    with pytest.raises(Refusal) as found:
        parse(body)
    assert found.value.status == 400
    assert len(found.value.message) < 500
