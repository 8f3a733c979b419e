"""VQA-RAD, SLAKE and PathVQA: questions on medical images, with open and closed scores.

All three may be given as LLaVA-Med's rows. PathVQA is read in no other form: the authors' own annotations are a pickle.

{"id": "synpic54610", "image": "synpic54610.jpg", "answer_type": "CLOSED", "conversations": [
    {"from": "human", "value": "<image>\\nAre the lungs normal?"}, {"from": "gpt", "value": "No"}]}

The authors' file of VQA-RAD:

{"qid": "7", "phrase_type": "test_freeform", "image_name": "synpic54610.jpg", "question": "Are the lungs normal?",
 "answer": "No", "answer_type": "CLOSED", "question_type": "ABN", "image_organ": "CHEST"}

The authors' file of SLAKE:

{"img_id": 1, "img_name": "xmlab1/source.jpg", "question": "Is the lung healthy?", "answer": "No", "q_lang": "en",
 "location": "Lung", "modality": "X-Ray", "answer_type": "CLOSED", "base_type": "vqa", "content_type": "Abnormality",
 "triple": ["vhead", "_", "_"], "qid": 11934}
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from llava_mocle.data.formats.medical import SLAKE_LANGUAGE, VQA_RAD_FOLDER, VQA_RAD_PUBLIC, VQA_RAD_TEST
from llava_mocle.data.official_files import ID, TEXT_OR_NUMBER, field, json_records
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.medical import closed_match, legacy_closed_match, open_recall
from llava_mocle.evaluation.task import Answers, Item, Metric, Scores, Source, Task, mean_metric

# The endings of the names of metrics that count as LLaVA-Med's scorer does, and as it has done since December 2023.
LEGACY = "_legacy"
LEGACY_SINCE_2024 = "_legacy_2024"
# LLaVA-Med's scorer reads both: files with the misspelling exist.
CONVERSATIONS = ("conversations", "conversatons")


class MedicalRecord(NamedTuple):
    """One question, whatever the file's format."""

    place: str
    record_id: str | int
    image: str
    question: str
    answer: str
    answer_type: str


class MedicalQA(Task):
    """Recall of open answers, accuracy of closed ones: strict, and `_legacy` as LLaVA-Med's scorer counts.

    Attributes:
        legacy: LLaVA-Med's way of counting makes the headline, in the version until December 2023; all are always
            given.
        folder: below the data root.
        files: names that the annotations may have, the preferred one first; the first that is there is read.
        image_folders: the same for the folder of images.
        image_key, split_key: keys of the image's name and of the split in the authors' own file.
        splits: the values under `split_key` that are asked; empty where only LLaVA-Med's rows are read.
    """

    max_new_tokens = 128
    metric = (
        "recall of the open answers' words, accuracy of the closed answers (Li et al., LLaVA-Med, 2023); _legacy: as "
        "LLaVA-Med's run_eval.py counted until December 2023, _legacy_2024: as since then"
    )
    legacy = False
    folder: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = ("test.json",)
    image_folders: ClassVar[tuple[str, ...]] = ("images",)
    image_key: ClassVar[str] = ""
    split_key: ClassVar[str] = ""
    splits: ClassVar[tuple[str, ...]] = ()

    def missing(self, root: Path) -> list[Source]:
        """Where a file or folder has several names, one is enough."""
        lacking = super().missing(root)
        for names in (self.files, self.image_folders):
            if any((root / self.folder / name).exists() for name in names):
                lacking = [source for source in lacking if Path(source.path).name not in names]
        return lacking

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        """The question stands alone in both styles, as in LLaVA-Med's rows for training."""
        path = _first(root / self.folder, self.files)
        images = _first(root / self.folder, self.image_folders)
        content = list(json_records(path))
        records = [found for place, record in content if (found := self._record(record, place))]
        if not records:
            raise DataError(f"{path}: none of its {len(content)} records belongs to the {self.split} split.")
        repeats = Counter(record.record_id for record in records)
        seen: Counter[str | int] = Counter()
        for record in records:
            number = seen[record.record_id]
            seen[record.record_id] += 1
            question_id = record.record_id if repeats[record.record_id] == 1 else f"{record.record_id}-{number}"
            question = Question(question_id, record.question, (images / record.image,), source=record.place)
            yield Item(question, record.answer, {"answer_type": record.answer_type})

    def _record(self, record: Mapping[str, Any], place: str) -> MedicalRecord | None:
        """What a record says; None where it is of another split."""
        named = next((name for name in CONVERSATIONS if name in record), None)
        if named:
            turns = field(record, named, place, list[dict])
            if [turn.get("from") for turn in turns] != ["human", "gpt"]:
                raise DataError(
                    f"{place}: 'conversations' should be one human turn and one gpt turn; is this a training file?"
                )
            id_key, image_key = "id", "image"
            question, answer = field(turns[0], "value", place, str), field(turns[1], "value", place, TEXT_OR_NUMBER)
        elif not self.splits:
            raise DataError(f"{place}: no 'conversations', expected a LLaVA row with answer_type.")
        elif field(record, self.split_key, place, str) not in self.splits:
            return None
        else:
            id_key, image_key = "qid", self.image_key
            question, answer = field(record, "question", place, str), field(record, "answer", place, TEXT_OR_NUMBER)
        record_id, image = field(record, id_key, place, ID), field(record, image_key, place, str)
        kind = field(record, "answer_type", place, str).strip().upper()
        if kind not in ("OPEN", "CLOSED"):
            raise DataError(f"{place}: answer_type is {record['answer_type']!r}, expected OPEN or CLOSED.")
        return MedicalRecord(place, record_id, image, question, str(answer), kind)

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        """The text; of a closed question only one that `closed_match` can read."""
        unreadable = item.keys["answer_type"] == "CLOSED" and closed_match(answer["text"], item.reference) is None
        return None if unreadable else super().read(item, answer)

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """The strict ones."""
        opened, closed = _by_type(items, [text or "" for text in said])
        return {
            "open_recall": mean_metric([open_recall(*pair) for pair in opened]),
            "closed_accuracy": mean_metric([closed_match(*pair) or 0.0 for pair in closed]),
        }

    def score(self, items: Sequence[Item], answers: Answers) -> Scores:
        """LLaVA-Med's scorer reads answers in its own way, so its metrics are made from the raw texts."""
        scores = super().score(items, answers)
        opened, closed = _by_type(items, [answer["text"] for answer in answers])
        matches = [legacy_closed_match(*pair) for pair in closed]
        kept = [value for value in matches if value is not None]
        legacy = {
            f"open_recall{LEGACY}": mean_metric([open_recall(*pair, legacy=True) for pair in opened]),
            # Which answers are dropped depends on the model, so two runs cannot be compared item by item.
            f"closed_accuracy{LEGACY}": replace(mean_metric(kept), items=None),
            f"closed_accuracy{LEGACY_SINCE_2024}": mean_metric([value or 0.0 for value in matches]),
        }
        metrics = {**legacy, **scores.metrics} if self.legacy else {**scores.metrics, **legacy}
        return replace(scores, headline=next(iter(metrics)), metrics=metrics)


class VqaRad(MedicalQA):
    """The 451 test questions: phrase types test_freeform and test_para."""

    name = "vqa_rad"
    title = "VQA-RAD"
    split = "test"
    folder = "vqa_rad"
    official_n = 451
    image_key = "image_name"
    split_key, splits = "phrase_type", VQA_RAD_TEST
    files = ("test.json", VQA_RAD_PUBLIC)
    image_folders = ("images", VQA_RAD_FOLDER)
    sources = (
        Source(
            "vqa_rad/test.json",
            f"LLaVA-Med's rows, or else the authors' {VQA_RAD_PUBLIC!r} in the same folder",
            "osf.io/89kps",
        ),
        Source("vqa_rad/images", "images (or the authors' 'VQA_RAD Image Folder')", "osf.io/89kps"),
    )


class Slake(MedicalQA):
    """English test questions; closed answers are not only yes and no."""

    name = "slake"
    title = "SLAKE"
    split = "English test"
    folder = "slake"
    image_folders = ("imgs", "images")
    official_n = 1061
    image_key = "img_name"
    split_key, splits = "q_lang", (SLAKE_LANGUAGE,)
    sources = (
        Source("slake/test.json", "the authors' file, or LLaVA-Med's rows", "med-vqa.com/slake, Slake1.0.zip"),
        Source("slake/imgs", "images (or a folder `images`)", "med-vqa.com/slake, Slake1.0.zip"),
    )


class PathVqa(MedicalQA):
    """Test questions."""

    name = "pathvqa"
    title = "PathVQA"
    split = "test"
    folder = "pathvqa"
    sources = (
        Source("pathvqa/test.json", "LLaVA-Med's rows", "made from github.com/UCSD-AI4H/PathVQA, test split"),
        Source("pathvqa/images", "images", "github.com/UCSD-AI4H/PathVQA"),
    )


def _by_type(items: Sequence[Item], texts: Sequence[str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(answer, reference) of the open questions, and of the closed ones."""
    pairs: dict[str, list[tuple[str, str]]] = {"OPEN": [], "CLOSED": []}
    for item, text in zip(items, texts, strict=True):
        pairs[item.keys["answer_type"]].append((text, item.reference))
    return pairs["OPEN"], pairs["CLOSED"]


def _first(folder: Path, names: Sequence[str]) -> Path:
    return next((folder / name for name in names if (folder / name).exists()), folder / names[0])
