"""The exit code in the file that a launch script names."""

from pathlib import Path

import pytest

from llava_mocle.io.exit_file import EXIT_FILE, leave_exit_code


def test_the_code_is_left_where_the_variable_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(EXIT_FILE, str(tmp_path / "code"))
    leave_exit_code(75)
    assert (tmp_path / "code").read_text() == "75\n"
    monkeypatch.setenv(EXIT_FILE, str(tmp_path / "missing" / "code"))
    leave_exit_code(75)
    assert "cannot be written" in caplog.text
    monkeypatch.delenv(EXIT_FILE)
    leave_exit_code(1)
    assert (tmp_path / "code").read_text() == "75\n"
