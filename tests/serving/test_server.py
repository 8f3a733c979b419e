import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

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


_RUN = """
import asyncio, socket, sys
from llava_mocle.serving.front import Settings, create_app
from llava_mocle.serving.metrics import Metrics
from llava_mocle.serving.server import bind, run
from tests.serving.stand_in import StandIn

class Backend(StandIn):
    async def start(self):
        if sys.argv[1] == "slow":
            print("starting", flush=True)
            await asyncio.sleep(600)

    async def close(self):
        await asyncio.sleep(0.01)
        print("closed", flush=True)

def ready(url):
    socket.create_connection(place.getsockname(), timeout=60).close()
    print("ready", flush=True)

place, backend = bind("127.0.0.1", 0), Backend()
run(create_app(backend, Settings(), Metrics()), backend, place, 5, ready)
"""


@pytest.mark.slow
@pytest.mark.parametrize("start", ["slow", "at once"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_in_order(start, number):
    """While it starts and while it serves. Once it says that it is ready, clients can connect."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, start],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    try:
        first = process.stdout.readline()
        if not first:
            raise AssertionError(process.stderr.read())
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        assert (first + out, err, process.returncode) == (
            ("starting" if start == "slow" else "ready") + "\nclosed\n",
            "",
            0,
        )
    finally:
        process.kill()
        process.wait()
