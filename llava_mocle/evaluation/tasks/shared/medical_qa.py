"""What the three medical benchmarks share: LLaVA-Med's rows, and open and closed scores.

{"id": "synpic54610", "image": "synpic54610.jpg", "answer_type": "CLOSED", "conversations": [
    {"from": "human", "value": "<image>\\nAre the lungs normal?"}, {"from": "gpt", "value": "No"}]}
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.run import Question
from llava_mocle.evaluation.metrics.medical import closed_match, legacy_closed_match, open_recall
from llava_mocle.evaluation.task import Item, Metric, Scores, Source, Task, mean_metric
from llava_mocle.evaluation.tasks.shared.official_files import ID, TEXT_OR_NUMBER, field, places, read_json
from llava_mocle.evaluation.tasks.shared.prompt_styles import check_style

# The ending of the names of metrics that count as LLaVA-Med's scorer does.
LEGACY = "_legacy"
# LLaVA-Med's scorer reads both: files with the misspelling exist.
CONVERSATIONS = ("conversations", "conversatons")


class MedicalRecord(NamedTuple):
    """One question, whatever the file's format."""

    record_id: str | int
    image: str
    question: str
    answer: str
    answer_type: str


class MedicalQA(Task):
    """Recall of open answers, accuracy of closed ones: strict, and `_legacy` as LLaVA-Med's scorer counts.

    Attributes:
        legacy: LLaVA-Med's way of counting makes the headline; both are always given.
        folder: below the data root.
        files: names that the annotations may have, the preferred one first; the first that is there is read.
        image_folders: the same for the folder of images.
    """

    max_new_tokens = 128
    metric = "recall of the open answers' words, accuracy of the closed answers (Li et al., LLaVA-Med, 2023)"
    legacy = False
    folder: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = ("test.json",)
    image_folders: ClassVar[tuple[str, ...]] = ("images",)

    def missing(self, root: Path) -> list[Source]:
        """See `Task`. Where a file or folder has several names, one is enough."""
        lacking = super().missing(root)
        for names in (self.files, self.image_folders):
            if any((root / self.folder / name).exists() for name in names):
                lacking = [source for source in lacking if Path(source.path).name not in names]
        return lacking

    def items(self, root: Path, prompts: str = "llava") -> list[Item]:
        """See `Task`. The question stands alone in both styles, as in LLaVA-Med's rows for training."""
        check_style(prompts)
        path = _first(root / self.folder, self.files)
        images = _first(root / self.folder, self.image_folders)
        content = list(places(path, read_json(path)))
        records = [pair for place, record in content for pair in self._read(record, place)]
        if not records:
            raise DataError(f"{path}: none of its {len(content)} records belongs to the {self.split} split.")
        repeats = Counter(record.record_id for _, record in records)
        seen: Counter[str | int] = Counter()
        made = []
        for place, record in records:
            number = seen[record.record_id]
            seen[record.record_id] += 1
            question_id = record.record_id if repeats[record.record_id] == 1 else f"{record.record_id}-{number}"
            question = Question(question_id, record.question, images=(images / record.image,), source=place)
            made.append(Item(question, record.answer, {"answer_type": record.answer_type}))
        return made

    def official(self, record: Mapping[str, Any], place: str) -> MedicalRecord | None:
        """Read a record of the authors' own file; None for a record of another split. By default, refuse it."""
        raise DataError(f"{place}: no 'conversations', expected a LLaVA row with answer_type.")

    def _read(self, record: Mapping[str, Any], place: str) -> Iterator[tuple[str, MedicalRecord]]:
        named = next((name for name in CONVERSATIONS if name in record), None)
        found = _llava_row(record, named, place) if named else self.official(record, place)
        if found is not None:
            kind = found.answer_type.strip().upper()
            if kind not in ("OPEN", "CLOSED"):
                raise DataError(f"{place}: answer_type is {found.answer_type!r}, expected OPEN or CLOSED.")
            yield place, found._replace(answer_type=kind)

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        """See `Task`: the text; of a closed question only one that `closed_match` can read."""
        unreadable = item.keys["answer_type"] == "CLOSED" and closed_match(answer["text"], item.reference) is None
        return None if unreadable else super().read(item, answer)

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """See `Task`: the strict ones."""
        opened, closed = _by_type(items, [text or "" for text in said])
        return {
            "open_recall": mean_metric([open_recall(*pair) for pair in opened]),
            "closed_accuracy": mean_metric([closed_match(*pair) or 0.0 for pair in closed]),
        }

    def score(self, items: Sequence[Item], answers: Sequence[Mapping[str, Any]]) -> Scores:
        """See `Task`. LLaVA-Med's scorer reads answers in its own way, so its metrics are made from the raw texts."""
        scores = super().score(items, answers)
        opened, closed = _by_type(items, [answer["text"] for answer in answers])
        kept = [value for value in (legacy_closed_match(*pair) for pair in closed) if value is not None]
        legacy = {
            f"open_recall{LEGACY}": mean_metric([open_recall(*pair, legacy=True) for pair in opened]),
            # Which answers are dropped depends on the model, so two runs cannot be compared item by item.
            f"closed_accuracy{LEGACY}": replace(mean_metric(kept), items=None),
        }
        metrics = {**legacy, **scores.metrics} if self.legacy else {**scores.metrics, **legacy}
        return replace(scores, headline=next(iter(metrics)), metrics=metrics)


def _by_type(items: Sequence[Item], texts: Sequence[str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(answer, reference) of the open questions, and of the closed ones."""
    pairs: dict[str, list[tuple[str, str]]] = {"OPEN": [], "CLOSED": []}
    for item, text in zip(items, texts, strict=True):
        pairs[item.keys["answer_type"]].append((text, item.reference))
    return pairs["OPEN"], pairs["CLOSED"]


def _llava_row(record: Mapping[str, Any], named: str, place: str) -> MedicalRecord:
    turns = field(record, named, place, list[dict])
    if [turn.get("from") for turn in turns] != ["human", "gpt"]:
        raise DataError(f"{place}: 'conversations' should be one human turn and one gpt turn; is this a training file?")
    return MedicalRecord(
        field(record, "id", place, ID),
        field(record, "image", place, str),
        field(turns[0], "value", place, str),
        str(field(turns[1], "value", place, TEXT_OR_NUMBER)),
        field(record, "answer_type", place, str),
    )


def _first(folder: Path, names: Sequence[str]) -> Path:
    return next((folder / name for name in names if (folder / name).exists()), folder / names[0])
