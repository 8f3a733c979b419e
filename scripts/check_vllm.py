"""Bundles in a real vLLM: does every cluster answer as the Predictor does? Started by `make check-vllm`.

Two models, in float32: a tiny random LLaVA with a CLIP tower and images that are not square, and the demo's trained
model if `make demo` has made it. Each question is asked of its own cluster's adapter, of every other one, and of the
base. Rows where all of these answer alike show nothing, so the rows are counted where another cluster or the base
answers differently. A second copy of an adapter has the names that vLLM takes without an error and then ignores: the
router's probe must name it, and no other. Then the router (`llava-mocle serve`) stands before vLLM and is asked by
OpenAI's own client, 24 requests at a time, half of them streams.
"""

import argparse
import asyncio
import json
import shlex
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import openai
from safetensors.torch import load_file, save_file
from serving_checks import Case, ask, clip_case, content_of, demo_case, engine, our_server, run, same_text

from llava_mocle.data.images import load_image
from llava_mocle.errors import ConfigError
from llava_mocle.export.base_folder import engine_tokenizer
from llava_mocle.export.bundle import BASE_NAME, Bundle, ImageFacts
from llava_mocle.export.images import prepare
from llava_mocle.export.request import Export
from llava_mocle.export.run import export
from llava_mocle.inference import Predictor, Request
from llava_mocle.io.folders import is_new_or_empty
from llava_mocle.io.libraries import quiet_libraries
from llava_mocle.serving.engines import Vllm
from llava_mocle.serving.probe import probe
from playground.paths import PLAYGROUND

WORK = PLAYGROUND / ".check_vllm"
WRONG = "wrong_names"
CONCURRENT = 24


def exported(case: Case) -> Bundle:
    """The bundle of a case, with the wrongly named copy of its first adapter beside it."""
    folder = WORK / case.name / "bundle"
    if not is_new_or_empty(folder):
        shutil.rmtree(folder)
    bundle, _ = export(Export(str(case.model), str(folder), dtype="float32"))
    first, wrong = folder / "adapters/cluster_0", WORK / case.name / WRONG
    shutil.rmtree(wrong, ignore_errors=True)
    shutil.copytree(first, wrong)
    weights = load_file(wrong / "adapter_model.safetensors")
    renamed = {name.replace("model.language_model.layers", "layers"): value for name, value in weights.items()}
    save_file({name: value.clone() for name, value in renamed.items()}, wrong / "adapter_model.safetensors")
    return bundle


def expected_answers(case: Case, bundle: Bundle) -> tuple[list[int], dict[str, list[str]]]:
    """Each row's cluster, and the Predictor's answers to all rows by the names of adapters and base."""
    predictor = Predictor.from_pretrained(case.model, device="cpu", dtype="float32")
    routes = [int(route or 0) for route in predictor.routes(case.requests)]
    found = {}
    for entry in bundle.routing.clusters:
        forced = [Request(item.prompt, item.images, cluster_id=entry.cluster) for item in case.requests]
        found[entry.adapter] = _texts(predictor, forced, case.max_tokens)
    base = Predictor.from_pretrained(bundle.base, device="cpu", dtype="float32")
    found[BASE_NAME] = _texts(base, case.requests, case.max_tokens)
    return routes, found


def _texts(predictor: Predictor, requests: Sequence[Request], max_tokens: int) -> list[str]:
    return [item.text for item in predictor.predict_batch(requests, max_new_tokens=max_tokens)]


@contextmanager
def vllm_server(python: str, bundle: Bundle, wrong: Path, port: int, log: Path) -> Iterator[str]:
    """vLLM on a bundle, by the bundle's own command line; yields its URL."""
    words = shlex.split(bundle.manifest.command)
    command = [python, *words[1:], f"{WRONG}={wrong.resolve()}", "--port", str(port), "--host", "127.0.0.1"]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with engine(command, bundle.folder, environment, f"http://127.0.0.1:{port}", log) as url:
        yield url


def ask_vllm(url: str, name: str, request: Request, facts: ImageFacts, max_tokens: int) -> list[int]:
    """The tokens of one answer of vLLM. (Its text lacks what is no whole letter at the end.)"""
    images = [prepare(load_image(image), facts) for image in request.image_list]
    body = {
        "model": name,
        "messages": [{"role": "user", "content": content_of(request.prompt, images)}],
        "temperature": 0,
        "max_tokens": max_tokens,
        "return_token_ids": True,
    }
    call = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(call, timeout=600) as answer:
            return list(json.load(answer)["choices"][0]["token_ids"])
    except urllib.error.HTTPError as error:
        sys.exit(f"vLLM refused a request to {name}: {error.code} {error.read().decode(errors='replace')[:1000]}")


def answers(url: str, name: str, case: Case, bundle: Bundle) -> list[str]:
    """The answers to all rows, `CONCURRENT` requests at a time."""
    facts = bundle.routing.image
    with ThreadPoolExecutor(CONCURRENT) as pool:
        rows = list(pool.map(lambda request: ask_vllm(url, name, request, facts, case.max_tokens), case.requests))
    tokenizer = engine_tokenizer(bundle.base)
    return [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in rows]


def check_router(case: Case, bundle: Bundle, upstream: str, routes: list[int], expected: list[str]) -> list[str]:
    """Ask each row through the router; prints what came out, returns what is wrong."""
    words = ["--bundle", str(bundle.folder), "--upstream", upstream]
    with our_server(words, WORK / case.name / "router.log") as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)
        with client, ThreadPoolExecutor(CONCURRENT) as pool:
            rows = enumerate(case.requests)
            found = list(pool.map(lambda row: ask(client, row[1], case.max_tokens, stream=row[0] % 2 == 1), rows))
    equal = [same_text(text, answer) for (text, _), answer in zip(found, expected, strict=True)]
    told = [cluster == route for (_, cluster), route in zip(found, routes, strict=True)]
    counts = f"{sum(equal)}/{len(equal)} answers and {sum(told)}/{len(told)} routes"
    print(f"\nThrough the router, {CONCURRENT} at a time, half of them streams: {counts}")
    return [
        f"{case.name}, through the router, row {row}: {found[row]}, expected {(expected[row], routes[row])}"
        for row in range(len(equal))
        if not (equal[row] and told[row])
    ][:1]


def check_probe(url: str, bundle: Bundle) -> list[str]:
    """The probe must find the adapter with other names, and no other; returns what is wrong."""

    async def look() -> str:
        async with httpx2.AsyncClient(base_url=url, timeout=600) as client:
            try:
                await probe(client, Vllm(), bundle.routing, [*bundle.adapter_names, WRONG])
            except ConfigError as error:
                return str(error)
        return "nothing is said"

    said = asyncio.run(look())
    print(f"\nThe probe: {said}")
    return [] if f"log-probabilities for {WRONG}:" in said else [f"the probe: {said}"]


def check(case: Case, python: str, port: int) -> list[str]:
    """Print a case's tables; returns what is wrong."""
    bundle = exported(case)
    routes, expected = expected_answers(case, bundle)
    with vllm_server(python, bundle, WORK / case.name / WRONG, port, WORK / case.name / "vllm.log") as url:
        found = {name: answers(url, name, case, bundle) for name in [*expected, WRONG]}
        own = [expected[f"cluster_{route}"][row] for row, route in enumerate(routes)]
        wrong = [*check_probe(url, bundle), *check_router(case, bundle, url, routes, own)]
    rows = range(len(case.requests))
    # Every adapter answers every row; a row tells where another adapter or the base answers it otherwise.
    telling = [row for row in rows if len({texts[row] for texts in expected.values()}) > 1]
    print(
        f"\n{case.name}: {len(rows)} questions, {len(telling)} of them answered differently by some adapter or the base"
    )
    print("\n| asked | equal to the Predictor | of the telling rows | telling rows that equal the base's |")
    print("|---|---|---|---|")
    for name, texts in expected.items():
        equal = [found[name][row] == texts[row] for row in rows]
        as_base = sum(found[name][row] == expected[BASE_NAME][row] for row in telling)
        told = sum(equal[row] for row in telling)
        print(f"| {name} | {sum(equal)}/{len(rows)} | {told}/{len(telling)} | {as_base}/{len(telling)} |")
        if not all(equal):
            row = equal.index(False)
            wrong.append(f"{case.name}, {name}, row {row}: {found[name][row]!r}, expected {texts[row]!r}")
    routed = [found[f"cluster_{routes[row]}"][row] == expected[f"cluster_{routes[row]}"][row] for row in rows]
    print(f"| each row's own cluster | {sum(routed)}/{len(rows)} | | |")
    ignored = sum(found[WRONG][row] == found[BASE_NAME][row] for row in rows)
    print(f"\nAn adapter with other names for its weights answers as the base: {ignored}/{len(rows)}")
    if not telling:
        wrong.append(f"{case.name}: no row tells the adapters apart, so nothing was shown")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", required=True, help="the Python that has vLLM")
    parser.add_argument("--rows", type=int, default=30, help="questions of each of the demo's domains (default: 30)")
    parser.add_argument("--only", choices=["clip", "demo"], help="one of the two models")
    parser.add_argument("--port", type=int, default=8471)
    args = parser.parse_args()
    quiet_libraries()
    cases = {"clip": lambda: clip_case(WORK), "demo": lambda: demo_case(args.rows)}
    chosen = [make() for name, make in cases.items() if args.only in (None, name)]
    run(chosen, lambda case: check(case, args.vllm_python, args.port))


if __name__ == "__main__":
    main()
