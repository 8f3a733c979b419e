"""Batched answers against one at a time, and ranking with the question computed once against once a candidate.

On a trained model (the demo's by default) and its domains' questions: with pictures and without, of several

    python -m benchmarks.answering --model playground/runs/mocle --questions 64 --batch 16
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from llava_mocle.data.conversation import IMAGE_TOKEN
from llava_mocle.data.rows import read_rows
from llava_mocle.inference import Predictor, Request

DOMAINS = ("natural", "geometry", "medical")


def mixed_requests(data: Path, count: int) -> list[Request]:
    """Questions of the domains in turn; every fourth one without its picture."""
    rows = {name: read_rows(data / name / "test.json") for name in DOMAINS}
    requests = []
    for number in range(count):
        row = rows[DOMAINS[number % len(DOMAINS)]][number // len(DOMAINS)]
        text = row["conversations"][0]["value"].replace(IMAGE_TOKEN, "").strip()
        image = None if number % 4 == 3 else data / row["image"]
        requests.append(Request(text, image))
    return requests


def answers(predictor: Predictor, requests: Sequence[Request], batch: int, beams: int) -> tuple[list[str], float]:
    """The answers, and seconds."""
    begin, texts = time.perf_counter(), []
    for start in range(0, len(requests), batch):
        part = requests[start : start + batch]
        texts += [p.text for p in predictor.predict_batch(part, max_new_tokens=16, num_beams=beams)]
    return texts, time.perf_counter() - begin


def compare_batches(args: argparse.Namespace, dtype: str, beams: int) -> None:
    predictor = Predictor.from_pretrained(args.model, dtype=dtype, device=args.device)
    requests = mixed_requests(Path(args.data), args.questions)
    ratios, differ = [], 0
    for _ in range(args.rounds):
        alone, slow = answers(predictor, requests, 1, beams)
        together, fast = answers(predictor, requests, args.batch, beams)
        differ = sum(a != b for a, b in zip(alone, together, strict=True))
        ratios.append(slow / fast)
    shown = " / ".join(f"{value:.2f}" for value in (min(ratios), statistics.median(ratios), max(ratios)))
    print(f"{dtype}, {beams} beam(s): {differ} of {len(requests)} answers differ; batch 1 takes {shown} times as long")


def compare_rankings(args: argparse.Namespace) -> None:
    predictor = Predictor.from_pretrained(args.model, dtype="float32", device=args.device)
    requests = [request for request in mixed_requests(Path(args.data), args.questions) if request.images][:8]
    for count in (2, 5, 20):
        candidates = [f"answer number {number}" for number in range(count)]
        ratios, worst = [], 0.0
        for _ in range(args.rounds):
            begin = time.perf_counter()
            once = [predictor.rank(request, candidates).scores for request in requests]
            middle = time.perf_counter()
            each = [[predictor.rank(request, [one]).scores[0] for one in candidates] for request in requests]
            ratios.append((time.perf_counter() - middle) / (middle - begin))
            pairs = [(a, b) for x, y in zip(once, each, strict=True) for a, b in zip(x, y, strict=True)]
            worst = max(worst, *(abs(a - b) / abs(b) for a, b in pairs))
        shown = " / ".join(f"{value:.2f}" for value in (min(ratios), statistics.median(ratios), max(ratios)))
        print(f"{count} candidates: one at a time takes {shown} times as long; scores within {worst:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="playground/runs/mocle")
    parser.add_argument("--data", default="playground/data")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device")
    args = parser.parse_args()
    for dtype in ("float32", "bfloat16"):
        for beams in (1, 3):
            compare_batches(args, dtype, beams)
    compare_rankings(args)


if __name__ == "__main__":
    main()
