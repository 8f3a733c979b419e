"""The server: its own engine at several requests at once against one at a time, and what the router adds to an engine.

    python -m benchmarks.serving --model playground/runs/mocle

The first part asks a trained model (the demo's by default) its domains' questions over HTTP; without such a model it is
left out. The second part has a stand-in for an engine, a process of its own that answers at once, so that what is timed
is the router. A text that was routed before is not embedded again.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from benchmarks.answering import mixed_requests
from benchmarks.harness import NOISE, Timing, in_turn, machine, ratios
from llava_mocle.clustering import ClusterModel
from llava_mocle.clustering.instruction import InstructionRule
from llava_mocle.export.bundle import Bundle, ClusterEntry, ImageFacts, Manifest, Routing
from llava_mocle.inference import Predictor, Request
from llava_mocle.serving.backend import Backend
from llava_mocle.serving.front import Settings, create_app
from llava_mocle.serving.metrics import Metrics
from llava_mocle.serving.own_engine import OwnEngine
from llava_mocle.serving.server import bind, url_of
from llava_mocle.serving.upstream import Upstream

PATH = "/v1/chat/completions"
SUBJECTS = ("colour", "shape", "plane", "modality", "angle", "length", "animal", "number")
CLUSTERS = 4
ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 1},
}


@contextmanager
def serving(app: Any, backend: Backend | None = None) -> Iterator[str]:
    """A server in a thread; yields its URL."""
    place, started = bind("127.0.0.1", 0), threading.Event()
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error", access_log=False))

    async def serve() -> None:
        if backend is not None:
            await backend.start()
        asyncio.get_running_loop().call_soon(started.set)
        await server.serve(sockets=[place])
        if backend is not None:
            await backend.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    started.wait()
    yield url_of(place)
    server.should_exit = True
    thread.join()


async def ask_all(url: str, bodies: Sequence[dict[str, Any]], at_once: int) -> list[float]:
    """Seconds of each request, so many of them at once."""
    rest, seconds = iter(bodies), []
    limits = httpx2.Limits(max_connections=at_once)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def worker() -> None:
            for body in rest:
                begin = time.perf_counter()
                response = await client.post(PATH, json=body)
                response.raise_for_status()
                seconds.append(time.perf_counter() - begin)

        await asyncio.gather(*(worker() for _ in range(at_once)))
    return seconds


def body_of(request: Request, max_tokens: int) -> dict[str, Any]:
    """A question as OpenAI's clients send it."""
    content: list[dict[str, Any]] = [{"type": "text", "text": request.prompt}]
    for path in request.image_list:
        data = base64.b64encode(Path(str(path)).read_bytes()).decode("ascii")
        content.insert(0, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    return {"model": "mocle", "max_tokens": max_tokens, "messages": [{"role": "user", "content": content}]}


def own_engine(args: argparse.Namespace) -> None:
    """Answers a second, one at a time and several at once."""
    requests = mixed_requests(Path(args.data), args.questions)
    bodies = [body_of(request, args.max_tokens) for request in requests]
    engine = OwnEngine(Predictor.from_pretrained(args.model, device=args.device, dtype=args.dtype))
    with serving(create_app(engine, Settings(), Metrics()), engine) as url:
        ways: dict[str, Callable[[], object]] = {
            f"{at_once} at once" if at_once > 1 else "one at a time": lambda at_once=at_once: asyncio.run(
                ask_all(url, bodies, at_once)
            )
            for at_once in (1, 4, 16)
        }
        timings = in_turn(ways, args.rounds)
    print_rates("own engine", timings, len(bodies))


def print_rates(title: str, timings: dict[str, Timing], count: int) -> None:
    """A table of requests a second, and of the ratios of times within each round."""
    first = next(iter(timings))
    print(f"\n{title}, {count} requests a run\n")
    print("| | requests/s | CPU ms a request | times as fast (min / median / max) |\n|---|---|---|---|")
    for name, timing in timings.items():
        rate, cpu = count / statistics.median(timing.wall), 1000 * statistics.median(timing.cpu) / count
        faster = ratios(timings, first, name, clock="wall") if name != NOISE else ratios(timings, NOISE, first, "wall")
        print(f"| {name} | {rate:.1f} | {cpu:.2f} | {faster} |")


async def stand_in(scope: Any, receive: Any, send: Any) -> None:
    """An engine that reads a request and answers at once."""
    while scope["type"] == "http" and (await receive()).get("more_body"):
        pass
    content = {"data": [{"id": f"cluster_{n}"} for n in range(CLUSTERS)]} if scope["path"] == "/v1/models" else ANSWER
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


def router_of(folder: Path, url: str, encoder: str | None) -> Upstream:
    """A router for a bundle that has no weights. Without ranks, it compares no adapter with the base."""
    texts = [f"Which {subject} has number {number}?" for subject in SUBJECTS for number in range(8)]
    options: dict[str, Any] = {} if encoder is None else {"encoder": encoder}
    model = ClusterModel.fit(texts, CLUSTERS, progress=False, **options)
    model.save(folder / "clusters")
    routing = Routing(
        router="cluster",
        num_experts=CLUSTERS,
        universal=True,
        sites=(),
        clusters=tuple(ClusterEntry(n, f"cluster_{n}", {}, {}, 0.5, 1.0, ()) for n in range(CLUSTERS)),
        ood=None,
        instruction=InstructionRule(),
        template="vicuna_v1",
        image=ImageFacts("pad", (0, 0, 0), 336, 576),
        stop_token_ids=(2,),
        stop_strings=(),
        context_length=4096,
        num_clusters=CLUSTERS,
    )
    manifest = Manifest("stand_in", "bfloat16", "vllm", "vllm", {}, {}, "")
    return Upstream(Bundle(folder, manifest, routing), url, encoder=encoder)


def router(args: argparse.Namespace) -> None:
    """What the router adds to one request, and how many it routes a second."""
    place = bind("127.0.0.1", 0)
    place.listen()
    words = [sys.executable, "-m", "benchmarks.serving", "--stand-in", str(place.fileno())]
    engine = subprocess.Popen(words, pass_fds=[place.fileno()])
    numbers = itertools.count()

    def known(count: int) -> list[dict[str, Any]]:
        return [text_body(f"Which {SUBJECTS[n % len(SUBJECTS)]} has number {n % 64}?") for n in range(count)]

    def new(count: int) -> list[dict[str, Any]]:
        subjects = (SUBJECTS[n % len(SUBJECTS)] for n in range(count))
        return [text_body(f"Which {subject} has number {64 + next(numbers)}?") for subject in subjects]

    try:
        with tempfile.TemporaryDirectory() as folder:
            backend = router_of(Path(folder), url_of(place), args.encoder)
            settings = Settings(most_requests=1000)
            with serving(create_app(backend, settings, Metrics()), backend) as url:
                latency(args, url, url_of(place), known, new)
                count = args.requests * 4
                ways: dict[str, Callable[[], object]] = {
                    "64 at once, engine alone": lambda: asyncio.run(ask_all(url_of(place), known(count), 64)),
                    "64 at once, routed before": lambda: asyncio.run(ask_all(url, known(count), 64)),
                    "64 at once, new text": lambda: asyncio.run(ask_all(url, new(count), 64)),
                }
                print_rates("router (client, router and encoder in one process)", in_turn(ways, args.rounds), count)
    finally:
        engine.kill()
        engine.wait()


def latency(args: argparse.Namespace, url: str, engine: str, known: Any, new: Any) -> None:
    """The median time of one request at a time, in turn."""
    asyncio.run(ask_all(url, known(64), 4))
    medians: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for name, place, bodies in (
            ("engine alone", engine, known(args.requests)),
            ("router, text routed before", url, known(args.requests)),
            ("router, new text", url, new(args.requests)),
        ):
            medians.setdefault(name, []).append(1000 * statistics.median(asyncio.run(ask_all(place, bodies, 1))))
    base = medians["engine alone"]
    print(f"\nrouter, one request at a time, {args.requests} a run\n")
    print("| | median ms | added ms (min / median / max over rounds) |\n|---|---|---|")
    for name, values in medians.items():
        added = sorted(value - alone for value, alone in zip(values, base, strict=True))
        shown = " / ".join(f"{value:.2f}" for value in (added[0], statistics.median(added), added[-1]))
        print(f"| {name} | {statistics.median(values):.2f} | {shown} |")


def text_body(text: str) -> dict[str, Any]:
    """A question without an image."""
    return {"model": "mocle", "max_tokens": 16, "messages": [{"role": "user", "content": text}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="playground/runs/mocle")
    parser.add_argument("--data", default="playground/data")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--requests", type=int, default=100, help="to the router, in one run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoder", help="folder of the sentence encoder, for the router")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--stand-in", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stand_in is not None:
        # Not by uvicorn's `fd`: it takes every socket for a Unix one, and then small packets wait 40 ms for each other.
        place = socket.socket(fileno=args.stand_in)
        config = uvicorn.Config(stand_in, log_level="error", access_log=False, lifespan="off")
        uvicorn.Server(config).run(sockets=[place])
        return
    print(machine())
    if Path(args.model).is_dir():
        own_engine(args)
    else:
        print(f"no model at {args.model}: `make demo` trains one; the own engine is left out", file=sys.stderr)
    router(args)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
