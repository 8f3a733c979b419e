"""A benchmark of our own, for the machinery around benchmarks: how many letters has the prompt?"""

import json
from pathlib import Path

from PIL import Image

from llava_mocle.data.official_files import field, json_records
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.task import Item, Metric, Scores, Source, Task, mean_metric
from llava_mocle.evaluation.tasks.shared.judge import JudgedTask


class Letters(Task):
    name = "letters"
    title = "Letters"
    split = "toy"
    metric = "share of right answers"
    sources = (Source("letters.json", "the questions", "the test"), Source("images", "pictures", "the test"))

    def read_items(self, root, prompts):
        path = root / "letters.json"
        for place, record in json_records(path):
            image = record.get("image")
            question = Question(
                field(record, "id", place),
                field(record, "text", place),
                images=(root / "images" / image,) if image else (),
                candidates=tuple(record.get("candidates", ())),
                source=place,
            )
            yield Item(question, field(record, "answer", place))

    def score(self, items, answers):
        values = [float(a["text"] == item.reference) for item, a in zip(items, answers, strict=True)]
        return Scores("accuracy", {"accuracy": mean_metric(values)}, sum(not a["text"] for a in answers))

    def submission(self, items, answers, folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "upload.json"
        path.write_text(json.dumps([a["text"] for a in answers]))
        return [path]


class OtherLetters(Letters):
    name = "other_letters"


class JudgedLetters(JudgedTask, Letters):
    """Scored by a judge alone; `official` is whether it is asked in the official words."""

    name = "judged_letters"
    official = False

    def official_prompt(self, items):
        return self.official

    def score(self, items, answers):
        if self.judge is None:
            return Scores("accuracy", {"accuracy": Metric(None, None, 0)})
        return Letters.score(self, items, answers)


def write_letters(root: Path, count: int = 11) -> Path:
    """Every third question is ranked, every second has a picture, and every fourth reference is wrong."""
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8), (200, 0, 0)).save(root / "images" / "red.png")
    records = []
    for number in range(count):
        text = f"question {'x' * number}?"
        record = {"id": number, "text": text, "answer": f"{len(text)} letters"}
        if number % 3 == 2:
            record |= {"candidates": ["longer", "short", "longest"], "answer": "short"}
        if number % 2:
            record["image"] = "red.png"
        if number % 4 == 3:
            record["answer"] = "something else"
        records.append(record)
    (root / "letters.json").write_text(json.dumps(records))
    return root
