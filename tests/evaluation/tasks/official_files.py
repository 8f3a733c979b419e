"""The fixture files as a data root, and answers without a model."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from llava_mocle.evaluation.answering.question import check_questions
from llava_mocle.evaluation.task import Item, Task

FILES = Path(__file__).parent / "files"


def data_root(tmp_path: Path, folder: str) -> Path:
    """A data root with the fixture files of one benchmark's folder."""
    shutil.copytree(FILES / folder, tmp_path / folder)
    return tmp_path


def edited(path: Path, old: str, new: str) -> None:
    """Replace `old`, which must be there, in a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def make_images(*paths: Path) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (10 * number, 0, 0)).save(path)


def ready_items(task: Task, root: Path, images: Sequence[str], prompts: str = "llava") -> list[Item]:
    """The task's items after its check and the runner's, with exactly `images` (below the root) made."""
    make_images(*(root / image for image in images))
    task.check(root)
    items = task.items(root, prompts)
    check_questions([item.question for item in items])
    assert sorted({str(path.relative_to(root)) for item in items for path in item.question.images}) == sorted(images)
    return items


def answers_to(
    items: Sequence[Item], texts: Sequence[str], scores: Sequence[Sequence[float]] = ()
) -> list[dict[str, Any]]:
    """Records of an answers file."""
    return [
        {
            "question_id": item.question.question_id,
            "text": text,
            "metadata": {"scores": list(scores[number])} if scores else {},
        }
        for number, (item, text) in enumerate(zip(items, texts, strict=True))
    ]
