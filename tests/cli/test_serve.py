"""`llava-mocle serve` and `chat`: what is refused before a model is loaded."""

import socket

import pytest

import llava_mocle.model.load
from llava_mocle.cli import main as cli
from llava_mocle.serving.server import KEY_VARIABLE


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    def load(*args, **options):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(llava_mocle.model.load, "load_model", load)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "m", "--host", "0.0.0.0"], "--api-key-file"),
        (["--model", "m", "--api-key-file", "none"], "cannot be read"),
        (["--model", "m", "--upstream", "http://127.0.0.1:1"], "--bundle and --upstream go together"),
        (["--bundle", "b"], "--bundle and --upstream go together"),
        (["--model", "m", "--port", "70000"], "0 to 65535"),
        (["--bundle", "b", "--upstream", "http://127.0.0.1:1", "--port", "0"], "is no bundle"),
    ],
)
def test_mistakes(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--model", "m", "--port", str(port)]) == 2
    assert f"cannot listen at 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--model", "m", "--bundle", "b"], ["--model", "m", "--max-batch", "0"]])
def test_flags(words, capsys):
    with pytest.raises(SystemExit):
        cli.main(["serve", *words])
    assert "error: " in capsys.readouterr().err


def test_an_image_of_a_chat_that_is_not_there(capsys, tmp_path):
    assert cli.main(["chat", "--model", "m", "--image", str(tmp_path / "none.png")]) == 2
    assert "none.png" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--temperature", "-1"], ["--temperature", "nan"], ["--top-p", "0"]])
def test_decoding_of_a_chat_that_cannot_be(words, capsys):
    assert cli.main(["chat", "--model", "m", *words]) == 2
    assert f"{words[0][2:].replace('-', '_')} is " in capsys.readouterr().err
