"""MM-Vet: open questions that need several abilities at once; a language model grades the answers from 0 to 1.

{"v1_0": {"imagename": "v1_0.png", "question": "What is x in the equation?", "answer": "-1<AND>-5",
          "imagesource": "https://...", "capability": ["ocr", "math"]}}
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.data.official_files import TEXT_OR_NUMBER, field, read_json, read_text
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.judge_replies import correctness_grade
from llava_mocle.evaluation.task import Answers, Files, Item, Metric, Source, mean_metric
from llava_mocle.evaluation.tasks.shared.judge import Judge, JudgedTask

FOLDER = "mm-vet"
PROMPT_FILE = f"{FOLDER}/judge_prompt.txt"
# Ours; the official evaluator's prompt, with its examples, is read from PROMPT_FILE where it is.
PROMPT = """You grade a prediction against the truth with a number from 0.0 (all wrong) to 1.0 (all right), in tenths.
Parts of the truth joined by <AND> must all be in the prediction, and each is worth its share.
Of parts joined by <OR> one is enough. Wording does not matter, the content does. Reply with the number alone.

Question | Ground truth | Prediction | Correctness
--- | --- | --- | ---
Which fruits are on the table? | apple <AND> pear | There are apples. | 0.5
Which fruits are on the table? | apple <AND> pear | An apple and a pear. | 1.0
What time is it? | 6:15 <OR> quarter past six | The clock shows 6:15. | 1.0
What time is it? | 6:15 <OR> quarter past six | It is noon. | 0.0
"""
# The calls of mm-vet_evaluator.py: the second is asked for in other words, and so are those after it, at rising
# temperatures. (It asks a sixth time, at 2.0, and does not read the reply.)
TEMPERATURES = (0.0, 0.0, 0.5, 1.0, 1.5)
MAX_TOKENS = 3
REMINDER = "\nThe grade, a number from 0.0 to 1.0, is: "  # our words


class MMVet(JudgedTask):
    """Mean grade x 100. The official evaluator asks GPT-4; grades of another judge or prompt do not compare."""

    name = "mm_vet"
    title = "MM-Vet"
    split = "v1"
    metric = (
        "mean grade x 100 by a language model (Yu et al., MM-Vet, 2023), asked and read as by mm-vet_evaluator.py; one "
        "run unless the judge's settings say more, where the paper averages five"
    )
    scorers = ("mm-vet_evaluator.py",)
    unparsed_as = "0"
    averages_runs = True
    reviewer = "MM-Vet's evaluator"
    max_new_tokens = 1024
    official_n = 218
    sources = (
        Source(f"{FOLDER}/mm-vet.json", "questions, answers, abilities", "github.com/yuweihao/MM-Vet, mm-vet.zip"),
        Source(f"{FOLDER}/images", "images", "the same archive"),
        Source(
            PROMPT_FILE, "the grading prompt", "`prompt` in mm-vet_evaluator.py there, as a text file", needed=False
        ),
    )

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        """The question stands as it is in both styles."""
        path = root / FOLDER / "mm-vet.json"
        content = read_json(path)
        if not isinstance(content, Mapping):
            raise DataError(f"{path}: a {type(content).__name__}, expected an object from ids to questions.")
        given = root / PROMPT_FILE
        prompt = read_text(given) if given.is_file() else PROMPT
        for name, record in content.items():
            place = f"{path}, {name}"
            image = root / FOLDER / "images" / field(record, "imagename", place, str)
            # LLaVA's ids are the numbers, and its converter puts v1_ in front.
            number = re.fullmatch(r"v1_(0|[1-9]\d{,17})", name, re.ASCII)
            question_id = int(number.group(1)) if number else name
            question = Question(question_id, field(record, "question", place, str), (image,), source=place, key=name)
            answer = str(field(record, "answer", place, TEXT_OR_NUMBER))
            truth = answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
            keys = {"capabilities": tuple(field(record, "capability", place, list[str])), "grading": prompt}
            yield Item(question, truth, keys)

    def official_prompt(self, items: Sequence[Item]) -> bool:
        return all(item.keys["grading"] != PROMPT for item in items)

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        """The judge's grade, averaged over its runs. A run without a grade counts as 0; None if none has one."""
        assert self.judge is not None
        # The blank line is the official evaluator's.
        table = item.keys["grading"].rstrip("\n")
        row = f"{table}\n\n{item.question.prompt} | {item.reference} | {answer['text']} | "
        grades = [_grade(self.judge, row, run) for run in range(self.judge.runs)]
        return None if grades == [None] * len(grades) else sum(grade or 0.0 for grade in grades) / len(grades)

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        values = [grade or 0.0 for grade in said]
        metrics = {"total": mean_metric(values)}
        for ability in sorted({name for item in items for name in item.keys["capabilities"]}):
            own = [value for value, item in zip(values, items, strict=True) if ability in item.keys["capabilities"]]
            metrics[ability] = mean_metric(own)
        return metrics

    def submission_files(self, items: Sequence[Item], answers: Answers) -> Files:
        ids = [str(item.question.key) for item in items]
        return {"mm-vet.json": {name: answer["text"] for name, answer in zip(ids, answers, strict=True)}}


def _grade(judge: Judge, row: str, run: int) -> float | None:
    """The grade of one run, asked for up to five times."""
    for time, temperature in enumerate(TEMPERATURES):
        reply = judge.ask(row + REMINDER if time else row, MAX_TOKENS, temperature, run=run)
        grade = correctness_grade(reply)
        if grade is not None:
            return grade
    return None
