import asyncio
import io
import signal

import pytest
from rich.console import Console

from llava_mocle.data.conversation import Turn
from llava_mocle.errors import ConfigError, DataError
from llava_mocle.serving.terminal import Terminal
from tests.serving.pngs import png
from tests.serving.stand_in import StandIn


def talk(lines, backend=None, **options):
    """What is printed, the terminal and the backend, after these lines."""
    rest, backend = iter(lines), backend or StandIn()

    def read(prompt):
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    out = io.StringIO()
    terminal = Terminal(console=Console(file=out, width=200), read=read, **options)
    asyncio.run(terminal.talk(backend))
    return out.getvalue(), terminal, backend


def test_a_conversation(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    printed, terminal, backend = talk(
        [f"/image {tmp_path / 'a.png'}", "Which plane is it?", "", "And [bold]now[/bold]?", "/cluster 0", "/again"],
        system="Be short.",
        temperature=0.5,
    )
    assert "cluster 1, distance 0.625, universal expert 0.50" in printed
    assert "Which plane is it?\n" in printed
    assert "And [bold]now[/bold]?\n" in printed
    first, second, again = backend.asked
    assert first.turns == (Turn("human", "<image>\nWhich plane is it?"),)
    assert second.turns == (*first.turns, Turn("gpt", "Which plane is it?"), Turn("human", "And [bold]now[/bold]?"))
    assert again.turns == second.turns
    assert (second.cluster_id, again.cluster_id) == (None, 0)
    assert all(question.system == "Be short." and question.decoding.temperature == 0.5 for question in backend.asked)
    assert [len(question.pictures) for question in backend.asked] == [1, 1, 1]
    assert len(terminal.turns) == 4


def test_new_and_quit():
    _, terminal, backend = talk(["one", "/new", "/length 3", "two", "/cluster auto", "/quit", "three"])
    assert [question.turns[0].text for question in backend.asked] == ["one", "two"]
    assert (terminal.max_tokens, terminal.cluster) == (3, None)


def test_what_cannot_be_answered_is_forgotten():
    backend = StandIn()
    backend.error = DataError("too long")
    printed, terminal, _ = talk(["two words", "one"], backend)
    assert "error: too long" in printed
    assert [turn.text for turn in terminal.turns] == ["one", "one"]


def test_ctrl_c_at_the_prompt_ends():
    went_on = []

    def read(prompt):
        signal.raise_signal(signal.SIGINT)
        went_on.append(prompt)
        raise EOFError

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(Terminal(console=Console(file=io.StringIO()), read=read).talk(StandIn()))
    assert not went_on


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("/nothing", ConfigError, "no command /nothing"),
        ("/image none.png", DataError, "none.png"),
        ("/cluster x", ConfigError, "a number, or auto"),
        ("/temperature hot", ConfigError, "a number"),
        ("/temperature -1", ConfigError, "at least 0"),
        ("/length nan", ConfigError, "at least 1"),
        ("what <image>?", DataError, "/image FILE"),
    ],
)
def test_mistakes(line, error, message):
    with pytest.raises(error, match=message):
        Terminal().takes(line)
    printed, _, _ = talk([line])
    assert "error: " in printed
