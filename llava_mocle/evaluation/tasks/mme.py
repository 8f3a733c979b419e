"""MME: two yes/no questions on each image, in ten subtasks of perception and four of cognition.

A text file an image, its questions and answers parted by a tab; <subtask>/0001.txt with <subtask>/0001.jpg, or
<subtask>/questions_answers_YN/0001.txt with <subtask>/images/0001.jpg:

Is there a cup in this image? Please answer yes or no.	Yes
Is there a train in this image? Please answer yes or no.	No
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.data.official_files import read_text
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.binary import yes_no_mme
from llava_mocle.evaluation.metrics.mme import COGNITION, PERCEPTION, Record, mme_interval, mme_score
from llava_mocle.evaluation.prompt_styles import SHORT_ANSWER
from llava_mocle.evaluation.task import Item, Metric, Source, Task, mean_metric

FOLDER = "MME/MME_Benchmark_release_version"
REQUEST = "Please answer yes or no."
IMAGE_ENDINGS = (".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".JPEG")


class Mme(Task):
    """The sum over all subtasks of accuracy and accuracy+ (both questions of an image right), at most 2800."""

    name = "mme"
    title = "MME"
    split = "all"
    metric = "accuracy + accuracy+ in percent, summed over 14 subtasks (Fu et al., MME, 2023)"
    sources = (
        Source(
            FOLDER,
            "a folder a subtask, with images and questions",
            "github.com/BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation",
        ),
    )
    official_n = 2374
    cluster_metric = "accuracy"  # sums over subtasks depend on which of them a cluster has

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        """LLaVA's prompt takes the request for yes or no away and puts its own suffix there."""
        folder = root / FOLDER
        # Some archives hold one more folder.
        folder = folder / "MME_Benchmark" if (folder / "MME_Benchmark").is_dir() else folder
        for subtask in PERCEPTION + COGNITION:
            for place, image, number, asked, label in _questions(folder, subtask):
                prompt = asked.replace(REQUEST, "").strip() + SHORT_ANSWER if prompts == "llava" else asked
                shown = image.relative_to(folder).as_posix()
                # LLaVA's id is the image's; its converter finds the question by its text.
                question = Question(shown, prompt, (image,), source=place, key=f"{shown}-{number}")
                yield Item(question, label, {"subtask": subtask, "image": shown})

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        return yes_no_mme(answer["text"])

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """`accuracy` is over questions; an image with one question asked counts for nothing else."""
        right = [answer == item.reference for item, answer in zip(items, said, strict=True)]
        asked = Counter(item.keys["image"] for item in items)
        records = [
            (item.keys["subtask"], item.keys["image"], correct)
            for item, correct in zip(items, right, strict=True)
            if asked[item.keys["image"]] == 2
        ]
        parts = {"total": PERCEPTION + COGNITION, "perception": PERCEPTION, "cognition": COGNITION}
        parts |= {subtask: (subtask,) for subtask in parts["total"]}
        metrics = {name: _summed([record for record in records if record[0] in own]) for name, own in parts.items()}
        return metrics | {"accuracy": mean_metric([float(correct) for correct in right])}


def _summed(records: Sequence[Record]) -> Metric:
    if not records:
        return Metric(None, None, 0)
    return Metric(mme_score(records), mme_interval(records), len(records))


def _questions(folder: Path, subtask: str) -> Iterator[tuple[str, Path, int, str, str]]:
    """(place, image, 0 or 1, question, "yes" or "no") of each question, by file name."""
    apart = (folder / subtask / "images").is_dir()
    texts = folder / subtask / "questions_answers_YN" if apart else folder / subtask
    images = folder / subtask / "images" if apart else folder / subtask
    files = sorted(texts.glob("*.txt"))
    if not files:
        raise DataError(f"{texts}: no question files (*.txt); MME has the subtask {subtask}. Unpack all of it.")
    for path in files:
        image = next(
            (images / (path.stem + end) for end in IMAGE_ENDINGS if (images / (path.stem + end)).is_file()), None
        )
        if image is None:
            raise DataError(
                f"{path}: no image {path.stem} with one of the endings {', '.join(IMAGE_ENDINGS)} in {images}."
            )
        lines = [line for line in read_text(path).splitlines() if line.strip()]
        if len(lines) != 2:
            raise DataError(f"{path}: found {len(lines)} questions, expected two an image.")
        for number, line in enumerate(lines):
            question, _, label = line.strip().rpartition("\t")
            if label.strip().lower() not in ("yes", "no") or not question:
                raise DataError(f"{path}, line {number + 1}: {line!r:.80}, expected a question, a tab, and Yes or No.")
            yield f"{path}, line {number + 1}", image, number, question.strip(), label.strip().lower()
