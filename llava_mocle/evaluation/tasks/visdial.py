"""VisDial v1.0: the last question of a dialog about an image; its 100 answer options are ranked by likelihood.

{"version": "1.0", "split": "val", "data": {"questions": ["is it in color"], "answers": ["yes", "no"], "dialogs": [
    {"image_id": 42, "caption": "a kite above a field", "dialog": [
        {"question": 0, "answer": 0, "answer_options": [1, 0], "gt_index": 1}]}]}}
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.data.official_files import ID, coco_image, field, places, read_json
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.ranking import reciprocal_rank
from llava_mocle.evaluation.prompt_styles import SHORT_ANSWER
from llava_mocle.evaluation.task import Item, Metric, Source, Task, mean_metric
from llava_mocle.evaluation.tasks.shared.candidate_scores import candidate_scores

FILE = "visdial/visdial_1.0_val.json"
IMAGES = "visdial/VisualDialog_val2018"


class VisDial(Task):
    """Mean reciprocal rank of the true answer; the earlier rounds, not the caption, are the history (as in LAVIS)."""

    name = "visdial"
    title = "VisDial"
    split = "v1.0 val, last round"
    metric = "mean reciprocal rank x 100 of the true answer among 100 (Das et al., Visual Dialog, 2017)"
    sources = (
        Source(FILE, "dialogs", "visualdialog.org/data, VisDial v1.0 validation set"),
        Source(IMAGES, "images", "visualdialog.org/data, VisualDialog_val2018.zip"),
    )
    official_n = 2064

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        path = root / FILE
        content = read_json(path)
        found = (field(content, "version", str(path)), field(content, "split", str(path)))
        if found != ("1.0", "val"):
            raise DataError(f"{path}: version and split are {found}, expected ('1.0', 'val').")
        data = field(content, "data", str(path), dict)
        questions, answers = (field(data, key, str(path), list[str]) for key in ("questions", "answers"))
        for place, record in places(path, field(data, "dialogs", str(path))):
            yield _item(record, questions, answers, root / IMAGES, place, prompts)

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        return candidate_scores(item, answer)

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        ranks = [reciprocal_rank(scores, item.reference) for item, scores in zip(items, said, strict=True)]
        return {"mrr": mean_metric(ranks)}


def _item(
    record: Mapping[str, Any],
    questions: Sequence[str],
    answers: Sequence[str],
    images: Path,
    place: str,
    prompts: str,
) -> Item:
    rounds = field(record, "dialog", place, list[dict])
    if not rounds:
        raise DataError(f"{place}: 'dialog' is empty, expected ten rounds.")
    *earlier, last = rounds
    history = " ".join(
        f"q: {_text(questions, turn, 'question', place)} a: {_text(answers, turn, 'answer', place)}" for turn in earlier
    )
    options = tuple(_at(answers, option, place) for option in field(last, "answer_options", place, list[int]))
    gold = field(last, "gt_index", place, int)
    if not 0 <= gold < len(options):
        raise DataError(f"{place}: gt_index is {gold!r}, expected 0 to {len(options) - 1}.")
    if "answer" in last and options[gold] != _text(answers, last, "answer", place):
        raise DataError(f"{place}: option {gold} (gt_index) is not the last answer; is this version 1.0?")
    question = Question(
        question_id=field(record, "image_id", place, ID),
        prompt=_prompt(history, _text(questions, last, "question", place), prompts),
        images=(coco_image(images, "VisualDialog_val2018_", record, place),),
        source=place,
        candidates=options,
    )
    return Item(question, gold)


def _text(texts: Sequence[str], turn: Mapping[str, Any], key: str, place: str) -> str:
    return _at(texts, field(turn, key, place, int), place)


def _at(texts: Sequence[str], index: int, place: str) -> str:
    if not 0 <= index < len(texts):
        raise DataError(f"{place}: {index!r} is the number of no text, expected 0 to {len(texts) - 1}.")
    return texts[index]


def _prompt(history: str, question: str, prompts: str) -> str:
    if prompts == "llava":
        return f"Dialog history: {history}\n{question}{SHORT_ANSWER}"
    return f"Dialog history: {history}\n Question: {question} Short answer:"
