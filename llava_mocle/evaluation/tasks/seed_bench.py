"""SEED-Bench: multiple choice on images and on frames of videos, in twelve dimensions.

{"questions": [{"answer": "A", "choice_a": "One", "choice_b": "Two", "choice_c": "Three", "choice_d": "Four",
                "data_id": "1454426_2591111986", "data_type": "image", "question": "How many towels are there?",
                "question_id": "101669", "question_type_id": 5}],
 "question_type": {"Instances Counting": 5}}
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llava_mocle.data.official_files import (
    ID,
    TEXT_OR_NUMBER,
    field,
    number_of,
    one_of,
    places,
    read_json,
)
from llava_mocle.errors import DataError
from llava_mocle.evaluation.metrics.options import bare_letter
from llava_mocle.evaluation.task import Answers, Files, Item, Metric, Source, accuracy_by, mean_metric
from llava_mocle.evaluation.tasks.shared.multiple_choice import ChoiceTask, choice_item

FOLDER = "seed_bench"
FILE = f"{FOLDER}/SEED-Bench.json"
KINDS = ("image", "video")
QUESTIONS = Source(FILE, "questions", "huggingface.co/datasets/AILab-CVC/SEED-Bench")
IMAGES = Source(f"{FOLDER}/SEED-Bench-image", "images, named as data_id", "the same data set, SEED-Bench-image.zip")
FRAMES = Source(
    f"{FOLDER}/SEED-Bench-video-image",
    "<question type>_<question id>.png, the middle frame (or a folder of that name with several)",
    "Something-Something v2, EPIC-KITCHENS and Breakfast, cut by LLaVA's extract_video_frames.py",
)


class SeedBench(ChoiceTask):
    """Accuracy over images and videos."""

    name = "seed_bench"
    title = "SEED-Bench"
    split = "images and videos"
    metric = "accuracy of the letter (Li et al., SEED-Bench, 2023)"
    kinds: ClassVar[tuple[str, ...]] = KINDS
    letter_decides = True
    sources: ClassVar[tuple[Source, ...]] = (QUESTIONS, IMAGES, FRAMES)

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        """With InstructBLIP's prompts the choices are ranked, as SEED-Bench itself does."""
        path = root / FILE
        content = read_json(path)
        types = field(content, "question_type", str(path), dict)
        names = {field(types, name, f"{path}, question_type", ID): name for name in types}
        for place, record in places(path, field(content, "questions", str(path))):
            kind, type_id = one_of(record, "data_type", place, *KINDS), field(record, "question_type_id", place, ID)
            if kind in self.kinds:
                official_id = field(record, "question_id", place, ID)
                # LLaVA's converter looks for a number where the id is one.
                number = number_of(official_id)
                yield choice_item(
                    official_id if number is None else number,
                    field(record, "question", place, str),
                    [field(record, f"choice_{letter}", place, TEXT_OR_NUMBER) for letter in "abcd"],
                    field(record, "answer", place, str),
                    images=_images(root, record, place),
                    place=place,
                    prompts=prompts,
                    key=official_id,
                    keys={"kind": kind, "dimension": names.get(type_id, str(type_id))},
                )

    def option(self, text: str, options: Sequence[str]) -> int | None:
        return bare_letter(text, len(options))

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        right = self.right(items, said)
        dimensions = list(dict.fromkeys(item.keys["dimension"] for item in items))
        return {
            "accuracy": mean_metric(right),
            **accuracy_by(items, right, "kind", self.kinds),
            **accuracy_by(items, right, "dimension", dimensions),
        }

    def submission_files(self, items: Sequence[Item], answers: Answers) -> Files:
        """One object a line, as the leaderboard takes it."""
        lines = []
        for item, answer in zip(items, answers, strict=True):
            index = self.read(item, answer)
            text = answer["text"] if index is None else "ABCD"[index]
            lines.append({"question_id": item.question.key, "prediction": text})
        return {"results.jsonl": lines}


class SeedBenchImage(SeedBench):
    """The questions on images alone."""

    name = "seed_bench_image"
    title = "SEED-Bench (image)"
    split = "images"
    official_n = 14233
    kinds = ("image",)
    sources = (QUESTIONS, IMAGES)


def _images(root: Path, record: Mapping[str, Any], place: str) -> tuple[Path, ...]:
    if record["data_type"] == "image":
        return (root / IMAGES.path / field(record, "data_id", place, str),)
    frames = root / FRAMES.path / f"{record['question_type_id']}_{field(record, 'question_id', place)}"
    if not os.path.isdir(frames):  # unlike Path.is_dir, it takes every name
        return (frames.with_name(frames.name + ".png"),)
    found = tuple(sorted(path for path in frames.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg")))
    if not found:
        raise DataError(f"{place}: the folder {frames} holds no frames (.png or .jpg).")
    return found
