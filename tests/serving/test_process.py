"""`llava-mocle serve` as people start it: it says when it is ready, answers, and ends in order."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def test_a_server_that_is_told_to_end_finishes_its_answers(checkpoint_dir):
    words = ["serve", "--model", str(checkpoint_dir), "--device", "cpu", "--dtype", "float32", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "llava_mocle.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        url = None
        for line in process.stdout:
            if found := re.search(r"serving \S+ at (http://\S+)/v1; the page is at", line):
                url = found[1]
                break
        assert url is not None, process.stderr.read()
        assert httpx2.get(f"{url}/health", timeout=300).json()["status"] == "ok"
        messages = [{"role": "user", "content": "Is there a red square?"}]
        body = {"model": "mocle", "messages": messages, "max_tokens": 300, "temperature": 5, "seed": 1, "stream": True}
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=300) as response:
            lines = response.iter_lines()
            assert json.loads(next(lines)[6:])["mocle"]["cluster_id"] is not None
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2][6:])["choices"][0]["finish_reason"] in ("stop", "length")
        assert process.wait(300) == 0
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{url}/health", timeout=60)
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
