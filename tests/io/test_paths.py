import base64
import os

import pytest

from llava_mocle.io.paths import user_path, why_missing, why_no_file


def test_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert user_path("~/rows.json") == "/home/ada/rows.json"
    assert user_path("rows/~.json") == "rows/~.json"
    assert user_path("rows.json") == "rows.json"


def test_what_is_there_is_not_missing(tmp_path):
    assert why_missing(tmp_path) is None


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nowhere.png", "no such file or directory"),
        (base64.b64encode(b"x" * 3000).decode().replace("/", "_"), "file name too long"),
        ("a\x00b.png", "embedded null byte"),
        ("a\ud800.png", "surrogates not allowed"),
    ],
)
def test_a_path_that_cannot_be_looked_up_is_missing(path, told):
    assert told in str(why_missing(path))
    assert told in str(why_no_file(path))


def test_a_file_used_as_a_folder_is_missing(tmp_path):
    (tmp_path / "file").write_text("")
    assert why_missing(tmp_path / "file" / "a.png") == "not a directory"


def test_what_is_there_but_no_file_cannot_be_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    assert why_no_file(tmp_path) == "it is a folder"
    assert why_no_file(tmp_path / "pipe") == "it is no regular file"
    assert why_no_file(tmp_path / "file") is None
