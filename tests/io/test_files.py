"""Writing aside and renaming, and who may read what was written."""

import fcntl
import os
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import save_file

from llava_mocle.io.files import append_line, make_readable, write_text, written_aside


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, usual_umask: None) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "naïve")

    def fail() -> None:
        with written_aside(path) as aside:
            aside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text(encoding="utf-8") == "naïve"
    assert list(path.parent.iterdir()) == [path]
    assert mode(path) == 0o644


def test_weights_can_be_read_by_others(tmp_path: Path, usual_umask: None) -> None:
    folder = tmp_path / "model"
    folder.mkdir(mode=0o700)
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    (folder / "run.sh").write_text("")
    (folder / "run.sh").chmod(0o755)
    assert mode(folder / "model.safetensors") == 0o600  # why this is needed
    make_readable(folder)
    assert [mode(folder), mode(folder / "model.safetensors"), mode(folder / "run.sh")] == [0o755, 0o644, 0o755]
    os.umask(0o077)
    save_file({"a": torch.zeros(1)}, folder / "other.safetensors")
    make_readable(folder)
    assert mode(folder / "other.safetensors") == 0o600


def test_lines_are_appended_and_the_half_line_of_a_killed_process_goes(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    append_line(path, "é")
    append_line(path, "b" * 100_000)
    with open(path, "a") as file:
        file.write('{"half')
    append_line(path, "c")
    append_line(path, "d")
    assert path.read_text(encoding="utf-8").splitlines() == ["é", "b" * 100_000, "c", "d"]
    path.write_text("half of the only line")
    append_line(path, "a")
    assert path.read_text() == "a\n"


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux tells who waits for a lock")
def test_a_line_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    """A writer that holds the lock has written half of its line when another wants to append."""
    path = tmp_path / "log.jsonl"
    with open(path, "ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"first ")
        other = Thread(target=append_line, args=(path, "second"))
        other.start()
        while not _waits_for_a_lock():
            assert other.is_alive()
        assert path.read_bytes() == b"first "
        file.write(b"line\n")
    other.join()
    assert path.read_text() == "first line\nsecond\n"


def _waits_for_a_lock() -> bool:
    return any("->" in line and f" {os.getpid()} " in line for line in Path("/proc/locks").read_text().splitlines())


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "log.jsonl"
    path.write_text("half")
    append_line(path, "a")
    append_line(path, "b")
    assert path.read_text() == "half\na\nb\n"
