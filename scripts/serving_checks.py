"""What the checks of serving share: two models with questions, servers in processes of their own, and a client."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import openai
from PIL import Image

from llava_mocle.data.conversation import IMAGE_TOKEN
from llava_mocle.data.images import load_image
from llava_mocle.inference import Request
from llava_mocle.serving.pictures import data_uri
from playground.paths import DATA, DOMAINS, PLAYGROUND
from tests.inference import tiny

DEMO = PLAYGROUND / "runs/mocle"
STARTS_WITHIN_S = 900.0


@dataclass(frozen=True)
class Case:
    """A model and its questions.

    Attributes:
        name: for people, and of its folder.
        model: the trained checkpoint.
        requests: questions without a cluster.
        max_tokens: the longest answer.
    """

    name: str
    model: Path
    requests: Sequence[Request]
    max_tokens: int


def clip_case(work: Path) -> Case:
    """A random model of LLaVA-1.5's architecture, written to `work`; its images are 24 to 28 by 40 pixels."""
    folder = work / "clip"
    shutil.rmtree(folder, ignore_errors=True)
    base = tiny.write_base(folder / "base", head_dim=32)  # vLLM has kernels for few sizes
    model = tiny.write_checkpoint(folder / "mocle", base, tiny.write_encoder(folder / "encoder"))
    images = tiny.write_images(folder / "images", 4)
    requests = [Request(question, images[index % 4]) for index, question in enumerate(tiny.QUESTIONS)]
    return Case("clip", model, [*requests, *(Request(question) for question in tiny.QUESTIONS[:2])], 12)


def demo_case(rows: int) -> Case | None:
    """The demo's model and the first held-out questions of each domain; None where it was not made."""
    if not (DEMO / "adapter_model.safetensors").is_file():
        return None
    requests = []
    for domain in DOMAINS:
        for row in json.loads((DATA / domain / "test.json").read_text(encoding="utf-8"))[:rows]:
            question = row["conversations"][0]["value"].replace(IMAGE_TOKEN, "").strip()
            requests.append(Request(question, DATA / row["image"]))
    return Case("demo", DEMO, requests, 16)


@contextmanager
def our_server(words: Sequence[str], log: Path) -> Iterator[str]:
    """`llava-mocle serve` with these flags at a free port; yields its URL."""
    command = [sys.executable, "-m", "llava_mocle.cli.main", "serve", *words, "--port", "0"]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()  # ends with the process too
    if not line.startswith("serving "):
        sys.exit(f"the server did not start: {line}{log.read_text()[-3000:]}")
    threading.Thread(target=process.stdout.read, daemon=True).start()
    try:
        yield line.split(" at ")[1].split("/v1")[0]
    finally:
        process.terminate()
        process.wait(120)


@contextmanager
def engine(command: Sequence[str], folder: Path, environment: Mapping[str, str], url: str, log: Path) -> Iterator[str]:
    """An engine in a process of its own; yields its URL once it says that it is well."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        _wait(url, process, log)
        yield url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < end:
        if process.poll() is not None:
            sys.exit(f"the engine ended with exit code {process.returncode}; {log}:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    sys.exit(f"the engine was not ready after {STARTS_WITHIN_S:.0f} s; see {log}")


def content_of(prompt: str, images: Iterable[Image.Image]) -> list[Any]:
    """The content of a message: the images, and the text behind them."""
    parts: list[Any] = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        parts.append({"type": "image_url", "image_url": {"url": data_uri(buffer.getvalue(), "PNG")}})
    return [*parts, {"type": "text", "text": prompt}]


def ask(
    client: openai.OpenAI, request: Request, max_tokens: int, *, model: str = "mocle", stream: bool = False
) -> tuple[str, int | None]:
    """An answer by OpenAI's client, with the image as it is; and the cluster that the server told."""
    messages: Any = [{"role": "user", "content": content_of(request.prompt, map(load_image, request.image_list))}]
    if not stream:
        whole: Any = client.chat.completions.create(model=model, messages=messages, max_tokens=max_tokens)
        return whole.choices[0].message.content, whole.mocle["cluster_id"]
    chunks: Any = client.chat.completions.create(model=model, messages=messages, max_tokens=max_tokens, stream=True)
    text, cluster = "", None
    for chunk in chunks:
        text += chunk.choices[0].delta.content or ""
        cluster = (getattr(chunk, "mocle", None) or {"cluster_id": cluster})["cluster_id"]
    return text, cluster


def same_text(text: str, answer: str) -> bool:
    """Whether an engine's text is the Predictor's answer. It may end within a letter of several bytes, which engines
    leave out and the Predictor writes as "�"."""
    return text.rstrip("�") == answer.rstrip("�")


def run(cases: Sequence[Case | None], check: Callable[[Case], list[str]]) -> NoReturn:
    """Check every case that is there, and end: with 1 where something is wrong, or nothing was checked.

    Args:
        check: prints what came out for a case, and returns what is wrong.
    """
    if None in cases:
        print("the demo's model is not there (make demo), so it is left out")
    there = [case for case in cases if case is not None]
    wrong = [line for case in there for line in check(case)]
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    sys.exit(bool(wrong) or not there)
