"""Writing aside and renaming, and who may read what was written."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llava_mocle.io.files import make_readable, write_text, written_aside


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
