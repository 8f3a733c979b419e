"""Where the cache is: its own variable, then the system's, then the home folder."""

from pathlib import Path

import pytest

from llava_mocle.io.cache import cache_root


def test_the_first_variable_that_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LLAVA_MOCLE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == tmp_path / "home" / ".cache" / "llava_mocle"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "llava_mocle"
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", "~/own")
    assert cache_root() == tmp_path / "home" / "own"
