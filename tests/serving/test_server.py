import socket

import pytest

from llava_mocle.errors import ConfigError
from llava_mocle.serving.server import KEY_VARIABLE, bind, check_open, is_loopback, read_key, url_of


def test_the_key(tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert read_key(None) is None
    monkeypatch.setenv(KEY_VARIABLE, "from-the-environment")
    assert read_key(None) == "from-the-environment"
    file = tmp_path / "key"
    file.write_text("from-a-file\n")
    assert read_key(file) == "from-a-file"
    for wrong in ("", "two words", "schlüssel", "a\nb"):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match="one word"):
            read_key(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(tmp_path / "none")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.2", False), ("example.org", False)],
)  # fmt: skip
def test_other_machines_need_a_key(host, loopback):
    assert is_loopback(host) == loopback
    check_open(host, "a-key", False)
    check_open(host, None, True)
    if loopback:
        check_open(host, None, False)
    else:
        with pytest.raises(ConfigError, match="--api-key-file"):
            check_open(host, None, False)


def test_a_place_to_listen_at():
    place = bind("127.0.0.1", 0)
    port = place.getsockname()[1]
    assert url_of(place) == f"http://127.0.0.1:{port}"
    place.listen()
    with socket.create_connection(("127.0.0.1", port), timeout=60), pytest.raises(ConfigError, match=f":{port} "):
        bind("127.0.0.1", port)
    place.close()
    with pytest.raises(ConfigError, match="0 to 65535"):
        bind("127.0.0.1", 70_000)
