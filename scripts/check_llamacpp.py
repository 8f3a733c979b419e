"""GGUF bundles in a real llama.cpp: does every cluster answer as the Predictor does? Started by `make check-llamacpp`.

Two models, in float32 and without images, which this format cannot have: a tiny random LLaVA with Llama's kind of
tokenizer, and the demo's trained model if `make demo` has made it. llama-server runs on the bundle by the bundle's
own command line, and the router (`llava-mocle serve`) stands before it; its start is the probe that every adapter acts.
OpenAI's client asks each question of `mocle`, which routes, and of every cluster by its name, 16 at a time. Rows that
all clusters answer alike show nothing, so the others are counted.
"""

import argparse
import os
import shlex
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
from serving_checks import Case, ask, demo_case, engine, our_server, run, same_text

from llava_mocle.export.bundle import Bundle
from llava_mocle.export.request import Export
from llava_mocle.export.run import export
from llava_mocle.inference import Predictor, Request
from llava_mocle.io.libraries import quiet_libraries
from playground.paths import PLAYGROUND
from tests.inference import tiny

WORK = PLAYGROUND / ".check_llamacpp"
CONCURRENT = 16
# By default, the cache of keys and values is in float16, and so is attention.
EXACT = ("--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off")


def llama_case() -> Case:
    """A random model with a tokenizer that llama.cpp knows."""
    folder = WORK / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    model = tiny.write_llama_checkpoint(folder, tiny.write_encoder(folder / "encoder"))
    return Case("tiny", model, [Request(question) for question in tiny.QUESTIONS], 12)


def text_case(case: Case | None) -> Case | None:
    """The same questions, each once, without their images."""
    if case is None:
        return None
    prompts = dict.fromkeys(request.prompt for request in case.requests)
    return Case(case.name, case.model, [Request(prompt) for prompt in prompts], case.max_tokens)


def exported(case: Case) -> Bundle:
    """The bundle of a case, made anew."""
    folder = WORK / case.name / "bundle"
    shutil.rmtree(folder, ignore_errors=True)
    return export(Export(str(case.model), str(folder), "gguf", dtype="float32"))[0]


def expected_answers(case: Case, clusters: Sequence[int]) -> tuple[list[int], dict[str, list[str]]]:
    """Each row's cluster, and the Predictor's answers to all rows by the names of the server's models."""
    predictor = Predictor.from_pretrained(case.model, device="cpu", dtype="float32")
    routes = [int(route or 0) for route in predictor.routes(case.requests)]
    asked = {f"mocle/cluster_{k}": [Request(item.prompt, cluster_id=k) for item in case.requests] for k in clusters}
    return routes, {
        name: [answer.text for answer in predictor.predict_batch(requests, max_new_tokens=case.max_tokens)]
        for name, requests in {"mocle": case.requests, **asked}.items()
    }


def check(case: Case, server: str, port: int) -> list[str]:
    """Print a case's table; returns what is wrong."""
    bundle = exported(case)
    clusters = [entry.cluster for entry in bundle.routing.clusters if entry.cluster is not None]
    routes, expected = expected_answers(case, clusters)
    command = [server, *shlex.split(bundle.manifest.command)[1:], "--port", str(port), *EXACT]
    url, folder = f"http://127.0.0.1:{port}", WORK / case.name
    with (
        engine(command, bundle.folder, {}, url, folder / "llama_server.log"),
        our_server(["--bundle", str(bundle.folder), "--upstream", url], folder / "router.log") as router,
        openai.OpenAI(base_url=f"{router}/v1", api_key="none", max_retries=0, timeout=600) as client,
        ThreadPoolExecutor(CONCURRENT) as pool,
    ):
        rows = list(enumerate(case.requests))
        found = {
            name: list(
                pool.map(
                    lambda row, name=name: ask(client, row[1], case.max_tokens, model=name, stream=row[0] % 2 == 1),
                    rows,
                )
            )
            for name in expected
        }
    forced = [texts for name, texts in expected.items() if name != "mocle"]
    telling = sum(len(set(texts)) > 1 for texts in zip(*forced, strict=True))
    print(f"\n{case.name}: {len(rows)} questions, {telling} of them answered differently by some cluster")
    wrong = [] if telling else [f"{case.name}: no row tells the clusters apart, so nothing was shown"]
    for name, answers in found.items():
        equal = [same_text(text, best) for (text, _), best in zip(answers, expected[name], strict=True)]
        print(f"  {name}: {sum(equal)}/{len(equal)} answers are the Predictor's")
        if not all(equal):
            row = equal.index(False)
            wrong.append(f"{case.name}, {name}, row {row}: {answers[row][0]!r}, expected {expected[name][row]!r}")
    told = sum(cluster == route for (_, cluster), route in zip(found["mocle"], routes, strict=True))
    print(f"  routes: {told}/{len(routes)} are the Predictor's")
    return wrong if told == len(routes) else [*wrong, f"{case.name}: {len(routes) - told} routes are other ones"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", required=True, type=Path, help="llama.cpp's server")
    parser.add_argument("--rows", type=int, default=30, help="questions of each of the demo's domains (default: 30)")
    parser.add_argument("--port", type=int, default=8472)
    args = parser.parse_args()
    quiet_libraries()
    WORK.mkdir(exist_ok=True)
    server = os.fspath(args.llama_server.resolve())
    run((llama_case(), text_case(demo_case(args.rows))), lambda case: check(case, server, args.port))


if __name__ == "__main__":
    main()
