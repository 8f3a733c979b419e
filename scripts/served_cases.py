"""What the checks of serving share: two models with questions, and a server in a process of its own."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llava_mocle.data.conversation import IMAGE_TOKEN
from llava_mocle.inference import Request
from playground.paths import DATA, DOMAINS, PLAYGROUND
from tests.inference import tiny

DEMO = PLAYGROUND / "runs/mocle"


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
def served(words: Sequence[str], log: Path) -> Iterator[str]:
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
