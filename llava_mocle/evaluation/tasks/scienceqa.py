"""ScienceQA: school science questions with two to five options; about half of them come with a picture.

problems.json: {"4": {"question": "Which is a mammal?", "choices": ["frog", "whale"], "answer": 1, "hint": "",
                "image": "image.png", "task": "closed choice", "grade": "grade4", "subject": "natural science",
                "topic": "biology", "category": "Classification", "skill": "...", "lecture": "...",
                "solution": "...", "split": "test"}}
pid_splits.json: {"test": ["4"], ...}
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from llava_mocle.data.conversation import IMAGE_TOKEN
from llava_mocle.data.official_files import field
from llava_mocle.evaluation.metrics.options import scienceqa_letter
from llava_mocle.evaluation.task import Item, Metric, Source, mean_metric
from llava_mocle.evaluation.tasks.shared.multiple_choice import ChoiceTask, record_item, split_problems

ORIGIN = "github.com/lupantech/ScienceQA, data/scienceqa"


class ScienceQA(ChoiceTask):
    """Accuracy; the headline is that of the questions with a picture (IMG), which both model families report."""

    name = "scienceqa"
    title = "ScienceQA"
    split = "test"
    metric = "accuracy on the questions with an image, answers read by LLaVA's parser (Lu et al., ScienceQA, 2022)"
    sources = (
        Source("scienceqa/problems.json", "all problems", ORIGIN),
        Source("scienceqa/pid_splits.json", "ids of each split", ORIGIN),
        Source("scienceqa/images/test", "a folder with image.png a problem", ORIGIN),
    )
    official_n = 4241
    letter_decides = True

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        """A hint stands in front as context, and routes with the question."""
        folder = root / "scienceqa"
        for pid, place, problem in split_problems(folder, "test"):
            name, hint = field(problem, "image", place, str | None), field(problem, "hint", place, str)
            image = folder / "images/test" / pid / name if name else None
            item = record_item(pid, problem, place, prompts, image, rewrite=partial(_with_context, hint, prompts))
            # LLaVA's scorer knows the questions with an image by the mark in their prompt.
            marked = f"{IMAGE_TOKEN}\n" * len(item.question.images) + item.question.prompt
            item = replace(item, question=replace(item.question, prompt=marked))
            yield replace(item, keys={**item.keys, "image": bool(image)})

    def option(self, text: str, options: Sequence[str]) -> int | None:
        return scienceqa_letter(text, len(options))

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        right = self.right(items, said)
        shown = [value for value, item in zip(right, items, strict=True) if item.keys["image"]]
        return {"accuracy_img": mean_metric(shown), "accuracy": mean_metric(right)}


def _with_context(hint: str, prompts: str, prompt: str) -> str:
    """LLaVA's file for ScienceQA and Table 11 both put the hint in front; Table 11 ends in "Answer:" here."""
    if prompts == "instructblip":
        prompt = prompt.removesuffix("Short answer:") + "Answer:"
    if not hint:
        return prompt
    return f"Context: {hint}\n{prompt}" if prompts == "llava" else f"Context: {hint} {prompt}"
