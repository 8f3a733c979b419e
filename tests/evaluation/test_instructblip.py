"""Benchmarks asked of a tiny InstructBLIP in its own way: generated with beams, ranked, and about videos."""

import json
from pathlib import Path

import pytest

from llava_mocle.cli.main import main
from llava_mocle.evaluation.registry import get_tasks
from llava_mocle.inference import Predictor
from llava_mocle.inference.request import Request
from tests.evaluation.tasks.official_files import data_root, make_images
from tests.tiny_instructblip import instructblip_base  # noqa: F401

IMAGES = {
    "gqa": [f"gqa/data/images/n{number}.jpg" for number in (1, 2, 3)],
    "hatefulmemes": [f"hatefulmemes/img/{number}.png" for number in ("08291", "46971", "03745", "83745")],
    "msrvtt_qa": [f"msrvtt_qa/frames/video{video}/{frame}.jpg" for video in (7010, 7011) for frame in (0, 1)],
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_task_in_the_papers_way(name: str, instructblip_base: Path, tmp_path: Path) -> None:  # noqa: F811
    root = data_root(tmp_path, name)
    make_images(*(root / image for image in IMAGES[name]))
    words = ["--model", str(instructblip_base), "--tasks", name, "--prompts", "instructblip", "--data-root", str(root)]
    assert main(["eval", *words, "--output", str(tmp_path / "out"), "--batch-size", "2"]) == 0
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers" / f"{name}.jsonl").read_text().splitlines()]
    scores = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"][name]
    predictor = Predictor.from_pretrained(instructblip_base)
    (task,) = get_tasks(name)
    items = task.items(root, "instructblip")
    assert len(answers) == len(items) == scores["n"]
    for item, answer in zip(items, answers, strict=True):
        request = Request(item.question.prompt, item.question.images)
        assert len(item.question.images) == (2 if name == "msrvtt_qa" else 1)
        if item.question.candidates:
            alone = predictor.rank(request, item.question.candidates)
            assert answer["metadata"]["scores"] == pytest.approx(alone.scores, abs=1e-4)
        else:
            alone = predictor.predict_batch(
                [request], max_new_tokens=10, num_beams=5, length_penalty=0.0, repetition_penalty=1.5
            )[0]
            assert answer["text"] == alone.text
