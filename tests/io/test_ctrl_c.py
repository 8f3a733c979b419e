"""Ctrl-C ends a command with one line."""

import signal

import pytest

from llava_mocle.io.ctrl_c import until_ctrl_c


@pytest.fixture(autouse=True)
def _usual_handler():
    """Tests that run in the background inherit an ignored SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_one_line_and_130(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("LLAVA_MOCLE_EXIT_FILE", str(tmp_path / "exit"))
    assert until_ctrl_c(press, "half is kept") == 130
    assert capsys.readouterr().err == "interrupted by Ctrl-C: half is kept\n"
    assert (tmp_path / "exit").read_text() == "130\n"
    assert until_ctrl_c(press) == 130
    assert capsys.readouterr().err == "interrupted by Ctrl-C\n"


def test_a_library_that_makes_an_error_of_it(capsys):
    def library():
        try:
            press()
        except KeyboardInterrupt:
            raise ImportError("initialisation failed") from None

    assert until_ctrl_c(library) == 130
    assert capsys.readouterr().err == "interrupted by Ctrl-C\n"


def test_other_ends_are_as_they_were():
    assert until_ctrl_c(lambda: 7) == 7
    with pytest.raises(ValueError, match="wrong"):
        until_ctrl_c(lambda: (_ for _ in ()).throw(ValueError("wrong")))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert until_ctrl_c(lambda: press() or 3) == 3


def test_in_another_thread_nothing_is_handled():
    from threading import Thread

    found = []
    thread = Thread(target=lambda: found.append(until_ctrl_c(lambda: 5)))
    thread.start()
    thread.join()
    assert found == [5]
