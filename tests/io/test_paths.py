import base64
import errno
import os
import re
from pathlib import Path

import pytest

from llava_mocle.errors import ConfigError
from llava_mocle.io.paths import looked_for, unusable_paths_named, user_path, why_missing, why_no_file, why_no_file_name


def test_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/people/ada")
    assert user_path("~/rows.json") == "/people/ada/rows.json"
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


def test_a_relative_path_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert looked_for("a/b.json") == f" (looked for at {tmp_path / 'a' / 'b.json'})"
    assert looked_for(tmp_path / "b.json") == ""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a/b", "holds '/'"),
        ("a\tb", r"holds '\t'"),
        ("\ud83d", "holds half a surrogate pair"),
        (".a", "begins with a dot"),
        ("a ", "ends with a space"),
        ("  ", "is empty"),
        (3, "is int, expected text"),
        ("é" * 101, "has 202 bytes, and a file name has room for 200"),
        ("é" * 100, None),
        ("a b-c_d.e (1)", None),
    ],
)
def test_names_that_become_file_names(name, told, tmp_path):
    said = why_no_file_name(name)
    assert (said is None) if told is None else (told in said)
    if told is None:
        (tmp_path / f"{name}.jsonl.part-10-of-16").touch()


def test_a_path_that_cannot_be_looked_up_is_a_mistake_of_the_user(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="xx: file name too long; choose another"), unusable_paths_named():
        Path(tmp_path, "x" * 300).exists()
    with (
        pytest.raises(ConfigError, match=r"file.*: (file exists|not a directory); choose another"),
        unusable_paths_named(),
    ):
        (tmp_path / "file" / "out").mkdir(parents=True)


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "gone", "f"), OSError(errno.EIO, "broken", "f"), OSError("text")]
)
def test_other_errors_pass(error):
    with pytest.raises(OSError, match=re.escape(str(error))) as caught, unusable_paths_named():
        raise error
    assert caught.value is error
