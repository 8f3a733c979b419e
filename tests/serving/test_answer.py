import pytest

from llava_mocle.inference.generation import Stopping
from llava_mocle.inference.prepared import Prepared
from llava_mocle.serving.answer import Answer, Stripped
from llava_mocle.serving.backend import Finished, Piece
from llava_mocle.serving.question import Decoding

END = 0


class Bytes:
    """A tokenizer of one token a byte; byte 0 ends an answer."""

    def decode(self, tokens, skip_special_tokens=True):
        return bytes(tokens).decode("utf-8", errors="replace")


def answered(text, *, limit=1000, stream=True, **decoding):
    """The events of an answer that is given these bytes, and then the end of turn."""
    events = []
    answer = Answer(
        Prepared({"input_ids": []}, {}, None, None),
        Decoding(limit, **decoding),
        index=0,
        limit=limit,
        stream=stream,
        stopping=Stopping((END,), ("</s>",)),
        send=events.append,
    )
    for token in [*text.encode(), END]:
        if not answer.done:
            answer.take(token, Bytes())
    assert answer.done
    return events


def text_of(events):
    return "".join(event.text for event in events if isinstance(event, Piece))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("written", "stop", "text", "reason"),
    [
        ("A dog.", (), "A dog.", "stop"),
        ("  A dog. \n\n", (), "A dog.", "stop"),
        ("two  words", (), "two  words", "stop"),
        ("été 🐕!", (), "été 🐕!", "stop"),
        ("a STOP b", ("STOP",), "a", "stop"),
        ("a ST b", ("STOP",), "a ST b", "stop"),
        ("a STSTOP b", ("STOP",), "a ST", "stop"),
        ("one\ntwo", ("\n", "two"), "one", "stop"),
        ("x</s>y", (), "x", "stop"),
        ("", (), "", "stop"),
        ("   ", (), "", "stop"),
    ],
)
def test_the_text_and_its_end(stream, written, stop, text, reason):
    events = answered(written, stream=stream, stop=stop)
    assert text_of(events) == text
    assert events[-1] == Finished(0, reason, None)
    assert all(event.text for event in events[:-1])


def test_a_stream_comes_as_soon_as_it_is_settled():
    pieces = [event.text for event in answered(" a bé STX\n", stop=("STOP",))[:-1]]
    assert pieces == ["a", " b", "é", " STX"]
    assert len(answered("A dog.", stream=False)) == 2


def test_the_limit():
    events = answered("abcdef", limit=4)
    assert (text_of(events), events[-1].reason) == ("abcd", "length")
    # What ends it counts before the limit does.
    assert answered("abSTOP", limit=6, stop=("STOP",))[-1].reason == "stop"
    assert answered("abcd", limit=5)[-1].reason == "stop"


def test_an_answer_starts_again_with_nothing():
    events = []
    prepared = Prepared({"input_ids": []}, {}, None, None)
    answer = Answer(
        prepared, Decoding(9, seed=4), index=2, limit=9, stream=False, stopping=Stopping((END,), ()), send=events.append
    )
    answer.take(65, Bytes(), {"token": "A"})
    answer.give_up()
    answer.begin()
    for token in (66, END):
        answer.take(token, Bytes(), {"token": "B"})
    assert events == [Piece(0 + 2, "B", ({"token": "B"},)), Finished(2, "stop", None)]
    assert (answer.seed, answer.greedy) == (6, True)


@pytest.mark.parametrize("parts", [["  a", " ", " b ", "\n"], [" ", "a  b", " "], ["a", "  ", "b"], ["", " "]])
def test_stripping_in_parts(parts):
    stripped = Stripped()
    sent = [stripped.add(part) for part in parts]
    assert "".join(sent) == "".join(parts).strip()
