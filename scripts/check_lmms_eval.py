"""lmms-eval over a server that routes: are its answers the Predictor's? Started by `make check-lmms-eval`.

A tiny random LLaVA with a CLIP tower, and the demo's trained model if `make demo` has made it, are served by
`llava-mocle serve`. lmms-eval's own model `openai` asks it the questions of a task made here, 16 at a time: once of
`mocle`, which routes by itself, and once of `mocle/cluster_0`. Every answer must be the Predictor's. The two differ in
rows of another cluster, and these rows are counted: where there is none, nothing is shown of the routing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from serving_checks import Case, clip_case, demo_case, our_server, run

from llava_mocle.inference import Predictor, Request
from llava_mocle.io.libraries import quiet_libraries
from playground.paths import PLAYGROUND

WORK = PLAYGROUND / ".check_lmms_eval"
TASK = "mocle_rows"
# What lmms-eval reads of a task: https://github.com/EvolvingLMMs-Lab/lmms-eval, docs/guides/task_guide.md
TASK_FILE = """task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function rows.images
doc_to_text: question
doc_to_target: answer
generation_kwargs: {{max_new_tokens: {max_tokens}, temperature: 0}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
ROWS_FILE = """from PIL import Image


def images(row):
    return [Image.open(path).convert("RGB") for path in row["images"]]
"""


def write_task(case: Case, answers: Sequence[str]) -> Path:
    """The folder of a task with the questions of a case; the right answers are those given."""
    folder = WORK / case.name / "task"
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "rows.jsonl"
    with rows.open("w", encoding="utf-8") as stream:
        for request, answer in zip(case.requests, answers, strict=True):
            images = [str(Path(str(image)).resolve()) for image in request.image_list]
            stream.write(json.dumps({"question": request.prompt, "images": images, "answer": answer}) + "\n")
    text = TASK_FILE.format(task=TASK, rows=rows.resolve(), max_tokens=case.max_tokens)
    (folder / f"{TASK}.yaml").write_text(text, encoding="utf-8")
    (folder / "rows.py").write_text(ROWS_FILE, encoding="utf-8")
    return folder


def ask(python: str, url: str, model: str, case: Case, task: Path) -> list[str]:
    """The answers that lmms-eval got and kept, row by row."""
    output = WORK / case.name / model.replace("/", "_")
    shutil.rmtree(output, ignore_errors=True)
    command = [python, "-m", "lmms_eval", "--model", "openai", "--tasks", TASK, "--include_path", str(task)]
    command += ["--model_args", f"model_version={model},base_url={url}/v1,num_concurrent=16,timeout=300"]
    command += ["--batch_size", "1", "--log_samples", "--output_path", str(output)]
    caches = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(WORK / "huggingface"), "LMMS_EVAL_HOME": str(WORK / "home")}
    with (WORK / case.name / "lmms_eval.log").open("w") as log:
        ended = subprocess.run(
            command, env=os.environ | caches | {"OPENAI_API_KEY": "none"}, stdout=log, stderr=log, check=False
        )
    found = sorted(output.rglob(f"*_samples_{TASK}.jsonl"))
    if ended.returncode or not found:
        sys.exit(f"lmms-eval ended with exit code {ended.returncode}; the end of its log:\n{_end(Path(log.name))}")
    samples = [json.loads(line) for line in found[-1].read_text(encoding="utf-8").splitlines()]
    return [sample["filtered_resps"] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]


def _end(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-3000:]


def check(case: Case, python: str) -> list[str]:
    """Print what came out for a case; returns what is wrong."""
    predictor = Predictor.from_pretrained(case.model, device="cpu", dtype="float32")
    forced = [Request(item.prompt, item.images, cluster_id=0) for item in case.requests]
    expected = {
        model: [answer.text for answer in predictor.predict_batch(requests, max_new_tokens=case.max_tokens)]
        for model, requests in (("mocle", case.requests), ("mocle/cluster_0", forced))
    }
    del predictor
    task = write_task(case, expected["mocle"])
    words = ["--model", str(case.model), "--device", "cpu", "--dtype", "float32"]
    with our_server(words, WORK / case.name / "serve.log") as url:
        found = {model: ask(python, url, model, case, task) for model in expected}
    telling = sum(one != other for one, other in zip(*expected.values(), strict=True))
    print(f"\n{case.name}: {len(case.requests)} questions; cluster 0 answers {telling} of them otherwise")
    wrong = [] if telling else [f"{case.name}: no row tells the clusters apart, so nothing was shown of the routing"]
    for model, texts in found.items():
        equal = [text == answer for text, answer in zip(texts, expected[model], strict=True)]
        print(f"  {model}: {sum(equal)}/{len(equal)} answers are the Predictor's")
        if not all(equal):
            row = equal.index(False)
            wrong.append(f"{case.name}, {model}, row {row}: {texts[row]!r}, expected {expected[model][row]!r}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmms-eval-python", required=True, help="the Python that has lmms-eval")
    parser.add_argument("--rows", type=int, default=30, help="questions of each of the demo's domains (default: 30)")
    args = parser.parse_args()
    quiet_libraries()
    WORK.mkdir(exist_ok=True)
    run((clip_case(WORK), demo_case(args.rows)), lambda case: check(case, args.lmms_eval_python))


if __name__ == "__main__":
    main()
