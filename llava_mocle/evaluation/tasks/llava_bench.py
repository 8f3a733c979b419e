"""LLaVA-Bench (In-the-Wild): open questions; a language model compares each answer with one by text-only GPT-4.

questions.jsonl: {"question_id": 0, "image": "001.jpg", "text": "Where is this?", "category": "conv"}
context.jsonl: {"id": "001", "image": "001.jpg", "caption": "A lake below a mountain."}
answers_gpt4.jsonl: {"question_id": 0, "prompt": "Where is this?", "text": "By a lake.", "answer_id": "...",
                     "model_id": "gpt-4", "metadata": {}}
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava_mocle.data.official_files import ID, field, jsonl_records, read_json
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.file import FIELDS
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.judge_replies import review_scores
from llava_mocle.evaluation.task import Answers, Files, Item, Metric, Source, resampled_metric
from llava_mocle.evaluation.tasks.shared.judge import JudgedTask

FOLDER = "llava-bench-in-the-wild"
ORIGIN = "huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild"
RULES = f"{FOLDER}/rule.json"
# Ours; the official one is read from RULES where it is.
RULE = {
    "role": "Assistant",
    "prompt": "Compare the two answers to the question about an image that the context describes: how helpful, "
    "relevant, accurate and detailed each is, whatever their order. The first line of your reply holds two numbers "
    "from 1 (poor) to 10 (excellent) with a space between them: the first answer's, then the second's. Explain below.",
}
# The call of LLaVA's eval_gpt_review_bench.py.
SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
TEMPERATURE = 0.2
MAX_TOKENS = 1024
_UNREAD = (-1.0, -1.0)  # both scores where a review has none, as LLaVA's program writes them


class LlavaBench(JudgedTask):
    """The model's scores in percent of GPT-4's. Judges differ, so compare only numbers by the same one."""

    name = "llava_bench"
    title = "LLaVA-Bench (Wild)"
    split = "all"
    metric = (
        "sum of the model's scores in percent of the reference's, by a language model (Liu et al., LLaVA, 2023), as "
        "LLaVA's eval_gpt_review_bench.py and summarize_gpt_review.py read them and add them up"
    )
    scorers = ("eval_gpt_review_bench.py",)
    unparsed_as = "-1 for both"
    reviewer = "LLaVA's eval_gpt_review_bench.py"
    max_new_tokens = 1024
    official_n = 60
    sources = (
        Source(f"{FOLDER}/questions.jsonl", "questions", ORIGIN),
        Source(f"{FOLDER}/images", "images", ORIGIN),
        Source(f"{FOLDER}/context.jsonl", "descriptions of the images for the judge", ORIGIN),
        Source(f"{FOLDER}/answers_gpt4.jsonl", "the reference answers", ORIGIN),
        Source(
            RULES, "the judge's instructions", "github.com/haotian-liu/LLaVA, llava/eval/table/rule.json", needed=False
        ),
    )

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        """The question stands as it is in both styles."""
        folder = root / FOLDER
        captions = _by(folder / "context.jsonl", "image", "caption")
        references = _by(folder / "answers_gpt4.jsonl", "question_id", "text")
        rules = read_json(root / RULES) if (root / RULES).is_file() else {}
        for place, record in jsonl_records(folder / "questions.jsonl"):
            asked, image = field(record, "text", place, str), field(record, "image", place, str)
            category, question_id = field(record, "category", place, str), field(record, "question_id", place, ID)
            keys = {
                "category": category,
                "context": field(captions, image, str(folder / "context.jsonl")),
                "rule": rules.get(f"llava_bench_{category}", RULE),
            }
            question = Question(question_id, asked, (folder / "images" / image,), source=place)
            yield Item(question, field(references, question_id, str(folder / "answers_gpt4.jsonl")), keys)

    def official_prompt(self, items: Sequence[Item]) -> bool:
        return all(item.keys["rule"] is not RULE for item in items)

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        """The judge's scores of the reference and of the answer, where its reply has both."""
        assert self.judge is not None
        role, prompt = item.keys["rule"]["role"], item.keys["rule"]["prompt"]
        parts = [f"[Context]\n{item.keys['context']}", f"[Question]\n{item.question.prompt}"]
        for number, shown in ((1, item.reference), (2, answer["text"])):
            parts += [f"[{role} {number}]\n{shown}", f"[End of {role} {number}]"]
        parts.append(f"[System]\n{prompt}")
        prompt = "\n\n".join(parts) + "\n\n"
        return review_scores(self.judge.ask(prompt, max_tokens=MAX_TOKENS, temperature=TEMPERATURE, system=SYSTEM))

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """A review without two scores counts as -1 for both, as officially; `all_read` leaves it out."""
        metrics = {"all": _ratio(said), "all_read": _ratio([pair for pair in said if pair])}
        for category in sorted({item.keys["category"] for item in items}):
            own = zip(said, items, strict=True)
            metrics[category] = _ratio([pair for pair, item in own if item.keys["category"] == category])
        return metrics

    def submission_files(self, items: Sequence[Item], answers: Answers) -> Files:
        return {"answers.jsonl": [{key: answer[key] for key in FIELDS if key in answer} for answer in answers]}


def _ratio(pairs: Sequence[tuple[float, float] | None]) -> Metric:
    if not any(pairs):  # officially -1 by -1, which is 100 %
        return Metric(None, None, 0)
    return resampled_metric([pair or _UNREAD for pair in pairs], _share)


def _share(pairs: np.ndarray) -> float:
    """The second column's sum by the first one's; nan where a resample has no positive sum to divide by."""
    whole = float(pairs[:, 0].sum())
    return float(pairs[:, 1].sum()) / whole if whole > 0 else math.nan


def _by(path: Path, key: str, value: str) -> dict[Any, str]:
    return {field(record, key, place, ID): _text(record, value, place) for place, record in jsonl_records(path)}


def _text(record: Mapping[str, Any], key: str, place: str) -> str:
    """A text, or lines of one, of which there must be some."""
    if not isinstance(record.get(key), list):
        return field(record, key, place, str)
    lines = field(record, key, place, list[str])
    if not lines:
        raise DataError(f"{place}: field {key!r} is an empty list, expected a text or its lines.")
    return "\n".join(lines)
