"""Progress in a log file: few plain lines."""

from contextlib import suppress

import pytest

from llava_mocle.io import progress as module
from llava_mocle.io.progress import progress


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def run(clock: Clock, seconds: float, total: int = 100, **options) -> None:
    """Report `total` units, each of which takes `seconds`."""
    with progress(total, "encoding", "text", **options) as bar:
        for _ in range(total):
            clock.now += seconds
            bar.update()


def test_a_line_for_every_tenth(clock: Clock, capsys) -> None:
    run(clock, 1.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "encoding: 10 of 100 texts (10%) in 00:10, about 01:30 left"
    assert lines[-1] == "encoding: 100 of 100 texts (100%) in 01:40"
    assert len(lines) == 10


def test_slow_work_is_mentioned_every_half_minute(clock: Clock, capsys) -> None:
    run(clock, 10.0, total=12, initial=2)
    lines = capsys.readouterr().err.splitlines()
    # With 12 units in all, a tenth is more than one unit: every second one is a line, 20 s after the last.
    assert lines[0] == "encoding: 4 of 12 texts (33%) in 00:20, about 01:20 left"
    run(clock, 20.0, total=1000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 500  # 40 s each: the second unit is the first after half a minute


def test_fast_work_is_one_line(clock: Clock, capsys) -> None:
    run(clock, 0.001)
    assert capsys.readouterr().err == "encoding: 100 of 100 texts (100%) in 00:00\n"


def test_patience_and_silence(clock: Clock, capsys) -> None:
    run(clock, 0.001, patience=3.0)
    run(clock, 1.0, shown=False)
    assert capsys.readouterr().err == ""
    run(clock, 1.0, total=10, patience=3.0)
    assert len(capsys.readouterr().err.splitlines()) == 8


def test_work_that_fails_says_how_far_it_came(clock: Clock, capsys) -> None:
    with suppress(KeyError), progress(8, "reading", "byte", unit_scale=True) as bar:
        bar.update(4)
        raise KeyError
    assert capsys.readouterr().err == "reading: 4.00 of 8.00 bytes (50%) in 00:00, about 00:00 left\n"


def test_a_terminal_gets_a_bar(monkeypatch) -> None:
    monkeypatch.setattr(module, "shows_bars", lambda: True)
    assert type(progress(3, "encoding", "text")).__name__ == "tqdm"


def test_work_of_unknown_size(clock: Clock, capsys) -> None:
    with progress(0, "making", "row") as bar:
        for _ in range(65):
            clock.now += 1
            bar.update()
    assert capsys.readouterr().err.splitlines() == [
        "making: 30 rows in 00:30",
        "making: 60 rows in 01:00",
        "making: 65 rows in 01:05",
    ]
