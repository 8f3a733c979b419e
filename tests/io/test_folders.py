"""Folders that appear whole or not at all, and never over what is there."""

import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava_mocle.errors import CheckpointError
from llava_mocle.io.folders import (
    _between_threads,
    folder_aside,
    is_new_or_empty,
    new_folder,
    only_one,
    refuse_to_overwrite,
    remove_leftovers,
)


def test_a_new_folder_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "deep" / "x"
    with new_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert [p.name for p in target.iterdir()] == ["a"]
    assert [p.name for p in target.parent.iterdir()] == ["x"]


def test_a_new_folder_can_be_read_by_others(tmp_path, usual_umask):
    with new_folder(tmp_path / "x") as folder:
        save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    assert (tmp_path / "x" / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_an_interrupted_folder_leaves_nothing(tmp_path):
    def interrupted():
        with new_folder(tmp_path / "x") as folder:
            (folder / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_only_an_empty_folder_may_stand_in_the_way(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "a").write_text("1")
    with pytest.raises(CheckpointError, match="never overwritten"), new_folder(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty" / "a").read_text() == "1"


def test_what_is_new_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    assert is_new_or_empty(tmp_path / "missing")
    assert is_new_or_empty(tmp_path / "empty")
    for taken in (tmp_path, tmp_path / "file", tmp_path / "dangling"):
        assert not is_new_or_empty(taken)
        with pytest.raises(CheckpointError, match="never overwritten"):
            refuse_to_overwrite(taken)


def test_a_folder_aside_stays_where_the_block_put_it(tmp_path: Path) -> None:
    with folder_aside(tmp_path / "x") as aside:
        (aside / "a").touch()
        os.rename(aside, tmp_path / "x")
    with folder_aside(tmp_path / "x") as aside:
        (aside / "b").touch()
    assert [place.name for place in tmp_path.rglob("*")] == ["x", "a"]


def test_leftovers_of_killed_processes(tmp_path: Path) -> None:
    (tmp_path / ".x.abc.tmp").mkdir()
    (tmp_path / ".x.abc.tmp" / "half").touch()
    for name in ("x", ".xy.abc.tmp", ".y"):
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path / "x")
    assert sorted(place.name for place in tmp_path.iterdir()) == [".xy.abc.tmp", ".y", "x"]


def test_threads_of_one_process_wait_for_each_other_silently(tmp_path: Path, capfd, monkeypatch) -> None:
    inside, waits, order = threading.Event(), threading.Event(), []
    place = tmp_path / ".made.lock"

    class Watched:
        """The lock of the first thread; it tells when the second one comes to it."""

        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __enter__(self) -> None:
            if inside.is_set():
                waits.set()
            self.lock.acquire()

        def __exit__(self, *error: object) -> None:
            self.lock.release()

    def second() -> None:
        assert inside.wait(60)
        with only_one(tmp_path / "made", "test"):
            order.append("second")

    monkeypatch.setitem(_between_threads, place, Watched())
    thread = threading.Thread(target=second)
    thread.start()
    with only_one(tmp_path / "made", "test"):
        inside.set()
        assert waits.wait(60)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert capfd.readouterr().out == ""
