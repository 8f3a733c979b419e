"""What ranks agree on, and how they end together; the parts that need no second process."""

import os
import queue
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava_mocle.errors import ConfigError, DivergenceError
from llava_mocle.training.processes import group
from llava_mocle.training.processes.death_watch import DeathWatch


def test_deepspeed_needs_its_file_and_a_place_to_meet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        monkeypatch.setenv(name, "")  # so that what is set below goes with the test
        monkeypatch.delenv(name)
    group.prepare_deepspeed(None)
    assert not any(name in os.environ for name in names)
    pytest.importorskip("deepspeed")
    with pytest.raises(
        ConfigError, match=r"deepspeed: .*none\.json: no such file or directory; `llava-mocle recipes` lists"
    ):
        group.prepare_deepspeed(str(tmp_path / "none.json"))
    monkeypatch.setenv("MASTER_ADDR", "node7")
    group.prepare_deepspeed('{"zero_optimization": {"stage": 2}}')
    assert [os.environ[name] for name in names] == ["0", "0", "1", "1", "node7", "0"]


def test_deepspeed_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed.ops", None)
    with pytest.raises(ConfigError, match="pip install 'llava_mocle\\[deepspeed\\]'"):
        group.prepare_deepspeed("zero2.json")


def test_a_process_alone_asks_itself_and_watches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert group.on_main(lambda: "looked up") == "looked up"
    monkeypatch.setattr(group, "DeathWatch", None)
    with group.watched(SimpleNamespace()):
        pass
    group.start_collectives(SimpleNamespace(deepspeed=None))


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch):
    """Makes this process rank 0 of 2, and gives what the other rank hears of its end."""
    heard: queue.Queue = queue.Queue()
    rank_1 = DeathWatch(1, 2, "token", on_death=heard.put)
    listen = DeathWatch.listen

    def meet(rank_0: DeathWatch) -> int:
        port = listen(rank_0)
        assert rank_1.connect("127.0.0.1", port)
        while not rank_0._links:
            time.sleep(0.01)
        return port

    monkeypatch.setattr(DeathWatch, "listen", meet)
    monkeypatch.setattr(group.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(group.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(group.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(group.secrets, "token_hex", lambda size: "token")

    def end() -> list[str]:
        rank_1._thread.join(60)  # it ends with the report, or with the goodbye
        assert not rank_1._thread.is_alive()
        return list(heard.queue)

    return end


def leave_with(error: BaseException | None) -> None:
    with group.watched(SimpleNamespace()):
        if error is not None:
            raise error


def test_a_rank_that_fails_tells_the_others_why(other) -> None:
    with pytest.raises(ValueError, match="odd"):
        leave_with(ValueError("odd\nand long"))
    assert other() == ["rank 0 (127.0.0.1) failed: ValueError: odd"]


def test_a_rank_that_fails_by_a_users_mistake_tells_it(other) -> None:
    with pytest.raises(ConfigError):
        leave_with(ConfigError("lora_r is 0"))
    assert other() == ["rank 0 (127.0.0.1) failed: ConfigError: lora_r is 0"]


@pytest.mark.parametrize("error", [None, DivergenceError("not finite")])
def test_ranks_that_leave_together_say_goodbye(other, error: Exception | None) -> None:
    """At the end of the run, or with an error that every rank raises."""
    if error is None:
        leave_with(None)
    else:
        with pytest.raises(DivergenceError):
            leave_with(error)
    assert other() == []
